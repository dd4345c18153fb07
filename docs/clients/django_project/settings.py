import os

from psycopg.conninfo import conninfo_to_dict

_server = conninfo_to_dict(os.environ.get("DATABASE_URL", ""))

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _server.get("dbname", "postgres"),
        "USER": _server.get("user", ""),
        "PASSWORD": _server.get("password", ""),
        "HOST": _server.get("host", ""),
        "PORT": _server.get("port", ""),
    }
}
INSTALLED_APPS = ["django.contrib.postgres", "django_project.notes"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

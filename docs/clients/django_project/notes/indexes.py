from django.contrib.postgres.indexes import PostgresIndex


class DistillvqIndex(PostgresIndex):
    suffix = "distillvq"

    def __init__(self, *expressions, target_recall=None, **kwargs):
        self.target_recall = target_recall
        super().__init__(*expressions, **kwargs)

    def deconstruct(self):
        path, args, kwargs = super().deconstruct()
        if self.target_recall is not None:
            kwargs["target_recall"] = self.target_recall
        return path, args, kwargs

    def get_with_params(self):
        return [] if self.target_recall is None else [f"target_recall = {self.target_recall}"]

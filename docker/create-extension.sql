-- Run once, when the container's database is made.
CREATE EXTENSION distillvq CASCADE;

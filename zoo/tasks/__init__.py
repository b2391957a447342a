"""Tasks of recipes: models, batches and metrics of images and of text."""

from zoo.tasks.task import Task
from zoo.tasks.text import TEXT
from zoo.tasks.vision import VISION

TASKS = {"text": TEXT, "vision": VISION}

__all__ = ["TASKS", "Task", "task_of"]


def task_of(recipe) -> Task:
    """Return the task that a recipe trains."""
    return TASKS[recipe.task]

"""Tasks of recipes: models, batches and metrics of each kind of data."""

from zoo.tasks.pairs import PAIRS
from zoo.tasks.task import Task
from zoo.tasks.text import TEXT
from zoo.tasks.vision import VISION

TASKS = {"pairs": PAIRS, "text": TEXT, "vision": VISION}

__all__ = ["TASKS", "Task", "task_of"]


def task_of(recipe) -> Task:
    """Return the task that a recipe trains."""
    return TASKS[recipe.task]

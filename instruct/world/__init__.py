"""The embedded default's world: text, tasks, demonstrations and a judge that knows the truth."""

from instruct.world.judge import is_dont_know, is_refusal, judge
from instruct.world.tasks import Task
from instruct.world.world import World

__all__ = ["Task", "World", "is_dont_know", "is_refusal", "judge"]

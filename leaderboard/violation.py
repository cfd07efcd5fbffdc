"""What a check of a leaderboard entry finds wrong."""

import dataclasses


@dataclasses.dataclass(frozen=True, order=True)
class Violation:
    """One thing to change before the entry can be submitted.

    Attributes:
      file: Path of the file within the entry.
      line: Line in the file, counted from 1; 1 where the whole file is meant.
      rule: Name of the rule.
      message: What is wrong and what to do.
    """

    file: str
    line: int
    rule: str
    message: str

    def __str__(self) -> str:
        return f'{self.file}:{self.line}: {self.rule}: {self.message}'

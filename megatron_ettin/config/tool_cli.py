"""What the command lines in tools/ share: a parser that suggests, and errors in one line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from megatron_ettin.config.errors import ConfigError
from megatron_ettin.config.names import suggestion


class ToolParser(argparse.ArgumentParser):
    """argparse without abbreviations; what is wrong is a ConfigError, and an unknown flag gets the near name."""

    def __init__(self, description: str) -> None:
        """Describe the tool in a sentence or two."""
        super().__init__(
            description=description, allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse, or raise ConfigError."""
        known = [name for action in self._actions for name in action.option_strings]
        for argument in arguments:
            flag = argument.split("=", 1)[0]
            if flag.startswith("--") and flag not in known:
                raise ConfigError(f"{flag}: unknown flag{suggestion(flag, known)}")
        return self.parse_args(arguments)

    def error(self, message: str) -> NoReturn:
        """Turn argparse's complaint into ours."""
        raise ConfigError(message.removeprefix("argument "))


def positive(text: str) -> int:
    """Parse a whole number above 0, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def run_tool(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Run a tool on the command line and exit with what it returns, or with 2 and one line for wrong input."""
    try:
        code = main(sys.argv[1:])
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        code = 2
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)

"""Option files: @FILE on the command line stands for the words of that file."""

import shlex
from pathlib import Path


class OptionFileError(Exception):
    """An option file that cannot be read; its message names file and line."""


def expanded(argv: list[str], around: tuple[Path, ...] = ()) -> list[str]:
    """The words of argv, in place of each @FILE those in it: one option a line, # starts a comment.

    BadFile: there is no such file, or a line that makes no sense.
    """
    words = []
    for word in argv:
        if word.startswith("@"):
            words += _words(Path(word[1:]), around)
        else:
            words.append(word)
    return words


def _words(file: Path, around) -> list[str]:
    if file in around:
        raise OptionFileError(f"option file {file} contains itself")
    try:
        if not file.is_file():
            what = "no file" if file.exists() else "not there"
            raise OptionFileError(f"option file {file} is {what}; a value that begins with @ is written --option=@value")
        lines = file.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
    except (OSError, ValueError) as error:
        raise OptionFileError(f"option file {file}: {getattr(error, 'strerror', None) or error}") from None
    words = []
    for number, line in enumerate(lines, 1):
        try:
            if b"\0" in line:
                raise ValueError("a NUL byte")
            words += expanded(shlex.split(line.decode(), comments=True), (*around, file))
        except UnicodeDecodeError as error:
            raise OptionFileError(f"option file {file}, line {number}: byte {line[error.start]:#x} is no UTF-8") from None
        except ValueError as error:  # shlex's: No closing quotation, No escaped character
            reason = str(error)[0].lower() + str(error)[1:]
            remedy = "; quote an apostrophe: \"it's\"" if "quotation" in reason else ""
            raise OptionFileError(f"option file {file}, line {number}: {reason}{remedy}") from None
    return words

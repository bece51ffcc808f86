"""Option files: @FILE on the command line is replaced by the words of that file."""

import os
import shlex
from pathlib import Path

from options.paths import near


class OptionFileError(Exception):
    """An option file cannot be read; the message names the file and the line."""


def expanded(argv: list[str], around: tuple[Path, ...] = ()) -> list[str]:
    """argv with each @FILE replaced by the words of that file; # starts a comment.

    around: the files that are being expanded.  OptionFileError: a file is missing, or a line is malformed.
    """
    words = []
    for word in argv:
        words += _words(_place(Path(os.path.expanduser(word[1:])), around), around) if word.startswith("@") else [word]
    return words


def _place(file: Path, around: tuple[Path, ...]) -> Path:
    """The file; where a file of options names another, and it is not here, that below a folder of the former."""
    above = around[-1].absolute().parents if around and not file.exists() else ()
    return next((place for folder in above if (place := folder / file).is_file()), file)


def _words(file: Path, around) -> list[str]:
    if file in around:
        raise OptionFileError(f"option file {file} contains itself")
    try:
        if not file.is_file():
            what = "no file" if file.exists() else "not there"
            remedy = "a value that begins with @ is written --option=@value"
            raise OptionFileError(f"option file {file} is {what}; {remedy}{near(file)}")
        lines = file.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
    except (OSError, ValueError) as error:
        raise OptionFileError(f"option file {file}: {getattr(error, 'strerror', None) or error}") from None
    words = []
    for number, line in enumerate(lines, 1):
        try:
            if b"\0" in line:
                raise ValueError("a NUL byte")
            words += expanded(shlex.split(line.decode(), comments=True), (*around, file))
        except ValueError as error:  # also shlex's: No closing quotation, No escaped character
            reason = str(error)[0].lower() + str(error)[1:]
            if isinstance(error, UnicodeDecodeError):
                reason = f"byte {line[error.start]:#x} is no UTF-8"
            remedy = "; quote an apostrophe: \"it's\"" if "quotation" in reason else ""
            raise OptionFileError(f"option file {file}, line {number}: {reason}{remedy}") from None
    return words

"""`convert`: a W&B sweep file as one of ours, on standard output."""

from pathlib import Path

import click

from distexp.errors import UserError
from distexp.sweep.convert import convert


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
def main(file: Path) -> int:
    """Print a W&B sweep FILE as a sweep file of ours, with a comment for whatever it could not carry over."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    click.echo(convert(text, str(file)), nl=False)
    return 0

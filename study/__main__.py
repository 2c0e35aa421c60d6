"""The study's commands: `python -m study serve | export | withdraw | invite | paid | power`.

Nothing heavy is imported before the arguments are understood: `--help` answers at once.
"""

import argparse
import sys
from contextlib import contextmanager
from pathlib import Path

from colorlib import ColorlibError, quiet

DATABASE = "study.sqlite3"
DEMO_DATABASE = "demo-{}.sqlite3"


def _count(text):
    number = int(text)
    if not 1 <= number <= 100_000:
        raise argparse.ArgumentTypeError(f"{text}: must be from 1 to 100000")
    return number


def _numbers(text):
    return tuple(_count(part) for part in text.split(","))


def _port(text):
    number = int(text)
    if not 0 <= number < 65536:
        raise argparse.ArgumentTypeError(f"{text}: must be from 0 (any free one) to 65535")
    return number


def _database(command, default=DATABASE):
    command.add_argument(
        "--database",
        default=default,
        metavar="URL",
        help=f"SQLite file, or postgresql://USER@HOST/NAME (default: {default or DATABASE})",
    )


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m study", description="Ask people which photos are colored, and keep answers."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser("serve", help="put a study on the web")
    command.add_argument(
        "--protocol", help="a packaged protocol's name or a TOML file (default: balanced-yesno)"
    )
    command.add_argument(
        "--stimuli", type=Path, metavar="DIR", help="made by 01_stimuli (default: packaged ones)"
    )
    _database(command, None)
    command.add_argument("--port", type=_port, default=8000, help="on 127.0.0.1 (default: 8000)")
    command.add_argument(
        "--demo", action="store_true", help="look around; the answers count for nothing"
    )

    command = commands.add_parser("export", help="write the answers as a Psych-DS folder")
    command.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new folder")
    _database(command)

    command = commands.add_parser("withdraw", help="delete the answers with this code")
    command.add_argument("code", help="the person's withdrawal code; case and hyphens don't matter")
    _database(command)

    command = commands.add_parser("invite", help="make links that work once")
    command.add_argument("count", type=_count, metavar="N")
    command.add_argument(
        "--address", default="", metavar="URL", help="where the study is, to print whole links"
    )
    _database(command)

    command = commands.add_parser("paid", help="check a panel's completion codes")
    command.add_argument(
        "file", type=Path, metavar="FILE", help="text: in each line a panel's id and a code"
    )
    _database(command)

    command = commands.add_parser(
        "power", help="how many people and photos a given precision takes"
    )
    command.add_argument(
        "--width",
        type=float,
        default=0.1,
        help="of the 95 %% interval of a share, from end to end (default: 0.1)",
    )
    command.add_argument("--people", type=_numbers, default=(20, 40, 80, 160), metavar="N,N")
    command.add_argument("--photos", type=_numbers, default=(12, 24, 48, 96), metavar="N,N")
    command.add_argument(
        "--studies", type=_count, default=100, help="simulated for each pair (default: 100)"
    )
    return parser


def _serve(args):
    from study import protocol as protocols

    protocol = protocols.load(args.protocol or protocols.DEFAULT)
    default = DEMO_DATABASE.format(protocol.name) if args.demo else DATABASE
    if not args.demo:  # told before stimuli are made and a database is
        protocol.check_live()
    from study.stimuli import Stimuli, packaged
    from study.survey.server import serve

    if args.stimuli:
        stimuli = Stimuli.load(args.stimuli)
    else:
        print("packaged stimuli (the first time, they are made; some seconds)", file=sys.stderr)
        with quiet():
            stimuli = packaged(protocol)
    serve(protocol, stimuli, args.database or default, args.port, args.demo)
    return 0


@contextmanager
def _opened(database):
    """A study's store, without those who withdrew, and anonymized if the day for it has come."""
    from study.survey import sessions, withdrawal
    from study.survey.store import Store

    store = Store(database, create=False)
    try:
        withdrawal.synchronize(store)
        day = store.write(sessions.anonymize)
        if day:
            store.forget()
        yield store, day
    finally:
        store.close()


def _export(args):
    from study.survey.export import export

    with _opened(args.database) as (store, _):
        counts = store.read(export, args.output)
    print(f"{args.output}: {', '.join(f'{count} {name}' for name, count in counts.items())}")
    return 0


def _withdraw(args):
    from study.survey import withdrawal

    with _opened(args.database) as (store, day):
        if day:
            raise ColorlibError(
                f"answers are anonymous since {day} (retention.anonymized_on): nobody's can be "
                "told from the others' any more"
            )
        gone = store.write(withdrawal.withdraw, args.code)
        if gone is None:
            raise ColorlibError(
                f"{args.code}: no such code, or withdrawn already; check its letters"
            )
        store.forget()
        withdrawal.synchronize(store)
        file = withdrawal.tombstones(store)
    print(
        f"{gone} answers deleted; a row of withdrawals says that, and when, and {file} keeps it "
        "so if an old backup is restored"
    )
    return 0


def _invite(args):
    from study.survey import sessions

    with _opened(args.database) as (store, _):
        codes = store.write(sessions.invite, args.count)
    for code in codes:
        print(f"{args.address.rstrip('/')}/?invitation={code}" if args.address else code)
    return 0


def _paid(args):
    from study.survey import payment, sessions

    with _opened(args.database) as (store, _):
        salt = store.read(sessions.salt)
    for name, outcome in payment.check(salt, args.file):
        print(f"{name}\t{outcome}")
    return 0


def _power(args):
    from study import simulation

    table = simulation.power(args.people, args.photos, studies=args.studies)
    plan = simulation.plan(args.width, table)
    print("Simulated people and photos; widths of 95 % intervals from end to end:")
    print(table.to_string(index=False, float_format="%.3f"))
    print(f"\nPeople needed for a width of {args.width:g} (empty: more photos are needed):")
    print(plan.to_string(index=False, na_rep=""))
    return 0


_COMMANDS = {
    "serve": _serve,
    "export": _export,
    "withdraw": _withdraw,
    "invite": _invite,
    "paid": _paid,
    "power": _power,
}


def main(argv=None):
    """Runs a command; returns its exit code: 0, 1 for a failure, 2 for bad arguments."""
    args = _parser().parse_args(argv)
    try:
        return _COMMANDS[args.command](args)
    except ColorlibError as error:
        print(f"study: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"study: {error.name} is missing: pip install -e '.[study]'", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"study: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("study: stopped; what was confirmed is kept", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

"""The command line of the study: `python -m study serve`, `export`, `withdraw` and others.

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
    command.add_argument(
        "--without-panel",
        action="store_true",
        help="leave out the hashes of panel ids, and the hours, to publish",
    )
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

    command = commands.add_parser("status", help="tell how the study is doing")
    _database(command)

    command = commands.add_parser("pause", help="let nobody begin; who has begun goes on")
    _database(command)

    command = commands.add_parser("resume", help="let people begin again")
    _database(command)

    command = commands.add_parser(
        "power", help="how many people and photos a given precision takes"
    )
    command.add_argument(
        "--width",
        type=float,
        default=0.1,
        help="of the 95 %% interval, from end to end (default: 0.1, which is 10 points)",
    )
    for option, rate, of in (
        ("--accepted", 0.46, "colored photos"),
        ("--original", 0.67, "originals"),
    ):
        command.add_argument(
            option,
            type=float,
            default=rate,
            metavar="RATE",
            help=f"how often {of} are called real, as you suppose (default: {rate})",
        )
    command.add_argument(
        "--people-agreement",
        type=float,
        default=0.5,
        metavar="R",
        help="1 if who calls originals real more often does so of colored photos to the same "
        "degree, 0 if one tells nothing of the other (default: 0.5)",
    )
    command.add_argument("--people", type=_numbers, default=(20, 40, 80, 160), metavar="N,N")
    command.add_argument("--photos", type=_numbers, default=(12, 24, 48, 96), metavar="N,N")
    command.add_argument(
        "--studies", type=_count, default=100, help="simulated for each pair (default: 100)"
    )

    command = commands.add_parser(
        "rules", help="what a protocol's rules find, and what they can't, on simulated people"
    )
    command.add_argument(
        "--protocol", help="a packaged protocol's name or a TOML file (default: balanced-yesno)"
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
def _opened(database, newer=False):
    """A study's store, without those who withdrew, and with what its protocols promise carried out.

    `newer` opens the database of a newer version of this program, too.
    """
    from study.survey import log, retention, versions, withdrawal
    from study.survey.store import Store

    log.set_up()
    store = Store(database, create=False, newer=newer)
    try:
        versions.mark(store)
        withdrawal.synchronize(store)
        retention.carry_out(store)
        yield store
    finally:
        store.close()


def _export(args):
    from study.survey.export import export

    with _opened(args.database, newer=True) as store:
        counts = store.read(export, args.output, not args.without_panel)
    print(f"{args.output}: {', '.join(f'{count} {name}' for name, count in counts.items())}")
    return 0


def _withdraw(args):
    from study.survey import retention, withdrawal

    with _opened(args.database, newer=True) as store:
        gone = store.write(withdrawal.withdraw, args.code)
        if gone is None:
            raise ColorlibError(
                f"{args.code}: no such code, or withdrawn already{store.read(retention.since)}; "
                "check its letters"
            )
        store.forget(tries=20)
        withdrawal.synchronize(store)
        file = store.tombstones
    print(
        f"{gone} answers deleted; a row of withdrawals says that, and when, and {file} keeps it "
        "so if an old backup is restored"
    )
    return 0


def _invite(args):
    from study.survey import doors, sessions

    with _opened(args.database) as store:
        store.read(doors.check_invitations, args.count)
        codes = store.write(sessions.invite, args.count)
    for code in codes:
        print(f"{args.address.rstrip('/')}/?invitation={code}" if args.address else code)
    return 0


def _status(args):
    from study.survey.status import status

    with _opened(args.database) as store:
        for name, value in status(store).items():
            print(f"{name:14} {value}")
    return 0


def _pause(args):
    from study.survey import doors

    with _opened(args.database) as store:
        store.write(doors.pause)
    print("paused: nobody begins, who has begun goes on; `python -m study resume` ends it")
    return 0


def _resume(args):
    from study.survey import doors

    with _opened(args.database) as store:
        store.write(doors.resume)
    print("people can begin again")
    return 0


def _paid(args):
    from study.survey import export, payment, sessions, versions

    with _opened(args.database) as store:
        salt, asked = store.read(sessions.salt), store.read(versions.used)
    panels = [export.read_protocol(row).panel for row in asked]
    for name, outcome in payment.check(salt, panels, args.file):
        print(f"{name}\t{outcome}")
    return 0


def _power(args):
    from study import simulation

    people = simulation.Population(
        {"accepted": args.accepted}, args.original, people_agreement=args.people_agreement
    )
    table = simulation.power(args.people, args.photos, people, studies=args.studies)
    plan = simulation.plan(args.width, table)
    print(
        f"Simulated people call {100 * args.accepted:g} % of the colored photos real, and "
        f"{100 * args.original:g} % of the originals. How prone a person is\nto say so of the one "
        f"and of the other is correlated by {args.people_agreement:g}. Power is the share of "
        "studies that see the difference.\nWidths are those of 95 % intervals from end to end:"
    )
    print(table.to_string(index=False, float_format="%.3f"))
    print(f"\nPeople needed for a width of {args.width:g} (empty: more photos are needed):")
    print(plan.to_string(index=False, na_rep=""))
    return 0


def _rules(args):
    from study import careless
    from study import protocol as protocols

    protocol = protocols.load(args.protocol or protocols.DEFAULT)
    print(f"Shares of people and answers that the rules of {protocol.name} flag:")
    print(careless.report(protocol).to_string(index=False, float_format="%.2f"))
    print(
        "\nWho answers at a person's pace and gets the plainly wrong photos right can't be told "
        "from a person who\nlooks. Nor can a second device or another browser, somebody who asks a "
        "friend or has seen the photos,\na picture taken of the screen, or colors that the screen "
        "alters. Invitations or a panel keep out the most."
    )
    return 0


_COMMANDS = {
    "serve": _serve,
    "export": _export,
    "withdraw": _withdraw,
    "invite": _invite,
    "status": _status,
    "pause": _pause,
    "resume": _resume,
    "paid": _paid,
    "power": _power,
    "rules": _rules,
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

"""Load for a Genmesh cluster.

    python -m loadtest.load chat                                   # a scenario, as `make load SCENARIO=chat`
    locust -f loadtest/locustfile.py --scenario chat               # the same, from Locust's web page
    locust -f loadtest/locustfile.py ChatUser -u 8 --headless -t 1m    # closed-loop users of a scenario's mix

Locust's --host, GENMESH_TARGET or the cluster that `make up` runs is the target; the API key is
GENMESH_API_KEY or that cluster's. Rows and their units: rows.py.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from genmesh.errors import GenmeshError
from grpc.experimental.gevent import init_gevent
from locust import events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import WorkerRunner

ROOT = str(Path(__file__).resolve().parents[1])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from loadtest import arrivals, scenarios, slo, target, users, web  # noqa: E402
from loadtest.conductor import Conductor, Until  # noqa: E402
from loadtest.measures import CALLS  # noqa: E402
from loadtest.scenarios import Closed, Scenario, ScenarioError  # noqa: E402
from loadtest.session import Session  # noqa: E402

init_gevent()


try:
    classes = users.classes(scenarios.load())  # closed-loop users of each scenario
except ScenarioError as failure:
    sys.exit(str(failure))
globals().update(classes)  # where Locust looks for them


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_options(parser: LocustArgumentParser) -> None:
    options = parser.add_argument_group("Genmesh")
    options.add_argument("--scenario", default="", help="A scenario of the file; its arrivals replace --users")
    options.add_argument("--scenarios-file", default=str(scenarios.SCENARIOS), help="The scenarios")
    options.add_argument("--slo-file", default=str(slo.OBJECTIVES), help="The objectives")
    options.add_argument("--rate", type=float, default=None, help="Another mean rate, arrivals a second")
    options.add_argument("--duration", type=float, default=None, help="Another duration, seconds")
    options.add_argument("--seed", type=int, default=None, help="Another seed")
    options.add_argument("--out", default="", help="Folder of summary.csv and summary.json")
    options.add_argument("--calls", action="store_true", help="Write each call to calls.jsonl in that folder as well")
    options.add_argument("--load-data", default="", help="Name of data that are laid out already")


def scenario_of(options: Any) -> Scenario | None:
    if not options.scenario:
        return None
    found = scenarios.pick(options.scenario, Path(options.scenarios_file))
    return arrivals.changed(found, options.rate, options.duration, options.seed)


@events.init.add_listener  # type: ignore[untyped-decorator]
def prepare(environment: Environment, **_: Any) -> None:
    """Give the process its part: users, shape, data, sums, page."""
    try:
        _prepare(environment, environment.parsed_options)
    except (ScenarioError, target.NoCluster, GenmeshError) as failure:
        sys.exit(str(failure))


def _prepare(environment: Environment, options: Any) -> None:
    scenario = scenario_of(options)
    host, key = target.found(environment.host)
    conductor = Conductor(environment, host, key, scenario, Path(options.slo_file))
    Session.calls_file = Path(options.out, CALLS) if options.calls else None
    if scenario:
        if isinstance(scenario.arrivals, Closed):
            chosen: type[users.GenmeshUser] = users.user_of(options.scenario, scenario)
            count = scenario.arrivals.users
        else:
            chosen, count = users.Arrivals, max(1, options.expect_workers if options.master else 1)
        environment.user_classes[:] = [chosen]
        if not isinstance(environment.runner, WorkerRunner):
            environment.shape_class = Until(conductor, count)
            environment.shape_class.runner = environment.runner
    mixes = [scenario.mix] if scenario else [classes[one.__name__].scenario.mix for one in environment.user_classes]
    conductor.lay_out({name for mix in mixes for name in mix})
    if environment.web_ui:
        web.extend(environment.web_ui, conductor)

"""A wrong setting is named by file, line and name, with what was found and what is allowed."""

from pathlib import Path

import pytest

from tocsin.config import Config, InvalidConfig, changed, flattened, load, warnings
from tocsin.config.load import find
from tocsin.core.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    path = folder / "tocsin.toml"
    path.write_text(text)
    return path


def problems(folder: Path, text: str, env: dict[str, str] | None = None) -> list[str]:
    """Each problem without the folder in front."""
    with pytest.raises(InvalidConfig) as caught:
        load(write(folder, text), env or {})
    return [str(p).replace(f"{folder}/", "") for p in caught.value.problems]


def test_without_a_file_every_setting_has_its_default() -> None:
    config = load(None, {})
    assert config.model_copy(update={"upstreams": {}}) == Config()
    assert config.server.host == "127.0.0.1"


def test_without_a_file_the_usual_keys_are_used() -> None:
    config = load(None, {"OPENAI_API_KEY": "sk-x"})
    assert config.upstreams["openai"].api_key_env == "OPENAI_API_KEY"
    assert config.upstreams["anthropic"].api_key_env == "", "forwards what the caller sends"
    assert config.upstreams["anthropic"].models == ("claude*",)
    assert next(iter(config.upstreams)) == "anthropic", "the one with fewer models is asked first"


def test_a_client_that_is_pointed_at_tocsin_does_not_point_tocsin_at_itself() -> None:
    config = load(None, {"OPENAI_API_KEY": "x", "OPENAI_BASE_URL": "http://127.0.0.1:4600/v1"})
    assert config.upstreams["openai"].base_url == ""


def test_a_file_without_upstreams_has_the_usual_ones(tmp_path: Path) -> None:
    config = load(write(tmp_path, "[server]\nport = 1\n"), {})
    assert set(config.upstreams) == {"openai", "anthropic"}


def test_a_wrong_name_gets_the_nearest_right_one(tmp_path: Path) -> None:
    assert problems(tmp_path, "# hello\n[server]\nprot = 80\n") == [
        "tocsin.toml:3: server.prot: there is no such setting; did you mean `port`?"
    ]


def test_a_wrong_table_gets_the_nearest_right_one(tmp_path: Path) -> None:
    assert problems(tmp_path, "[serevr]\nport = 80\n") == [
        "tocsin.toml:1: serevr: there is no such table; did you mean `server`?"
    ]


def test_a_name_that_is_near_to_none_gets_all_that_are_possible(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, "[policies]\nzzz = 1\n")
    assert found.endswith(
        "there is no such setting; possible here: `identity`, `stops`, `ledger`, `agents`"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[server]\nport = "80"\n',
            '2: server.port: found `"80"`; allowed: a whole number from 0 to 65,535',
        ),
        (
            "[server]\nport = 70000\n",
            "2: server.port: found `70000`; allowed: a whole number from 0 to 65,535",
        ),
        (
            '[store]\ncontent = "hash"\n',
            '2: store.content: found `"hash"`; allowed: `"full"` or `"hashes"`; '
            "did you mean `hashes`?",
        ),
        (
            '[auth]\nrequire_key = "yes"\n',
            '2: auth.require_key: found `"yes"`; allowed: `true` or `false` or `"auto"`',
        ),
        (
            '[upstreams.x]\nmodels = "gpt"\n',
            '2: upstreams.x.models: found `"gpt"`; allowed: a list of texts',
        ),
        (
            "[store]\nkeep_days = true\n",
            "2: store.keep_days: found `true`; allowed: a number above 0 or `false`",
        ),
        ("upstreams = 3\n", "1: upstreams: found `3`; allowed: a table"),
        (
            "[[features.chat.targets]]\nweight = 1\n",
            "1: features.chat.targets[0].upstream: must be set; allowed: text",
        ),
    ],
)
def test_a_wrong_value_is_shown_with_what_is_allowed(
    tmp_path: Path, text: str, message: str
) -> None:
    assert problems(tmp_path, text) == [f"tocsin.toml:{message}"]


def test_all_problems_are_named_at_once_in_the_order_of_their_lines(tmp_path: Path) -> None:
    text = """\
[server]
prot = 80
[upstreams.main]
kind = "opnai"
retries = 99
[features.chat]
targets = [{upstream = "mian"}]
"""
    found = problems(tmp_path, text, {"TOCSIN_PORT": "http"})
    assert [problem.split(": ")[0] for problem in found] == [
        "tocsin.toml:2",
        "tocsin.toml:4",
        "tocsin.toml:5",
        "tocsin.toml:7",
        "environment",
    ]
    assert "there is no upstream `mian`; did you mean `main`?" in found[3]
    assert found[4].startswith('environment: TOCSIN_PORT: found `"http"`; allowed: a whole number')


def test_what_is_not_toml_is_named_by_line_and_column(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, "[server]\nhost = 0.0.0.0\n")
    assert found.startswith("tocsin.toml:2: not TOML: ")
    assert "at column 11" in found


@pytest.mark.parametrize("setting", ["api_key", "api_key_env"])
def test_a_secret_in_the_wrong_place_is_never_shown(tmp_path: Path, setting: str) -> None:
    (found,) = problems(tmp_path, f'[upstreams.x]\n{setting} = "sk-very-secret"\n')
    assert "very" not in found
    assert "api_key_env" in found


def test_a_password_in_a_wrong_url_is_never_shown(tmp_path: Path) -> None:
    found = problems(tmp_path, '[store]\nurl = ["postgresql://me:hunter2@db/x"]\n')
    assert "hunter2" not in "".join(found)
    (found_url,) = problems(tmp_path, '[upstreams.x]\nbase_url = "https://u:hunter2@host/v1"\n')
    assert "hunter2" not in found_url
    assert "must not hold a user or password" in found_url


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[server]\nhost = "0.0.0.0"\n[auth]\nrequire_key = false\n',
            "4: auth.require_key: may not",
        ),
        ('[store]\nurl = "mysql://db"\n', "2: store.url: must begin with"),
        ('[upstreams.x]\nkind = "replay"\n', "1: upstreams.x.path: must name the file"),
        (
            '[upstreams.x]\nkind = "replay"\npath = "gone.jsonl"\n',
            "3: upstreams.x.path: there is no file",
        ),
        ('[upstreams."a b"]\n', '1: upstreams."a b": a name has'),
        ("[upstreams.x]\nmodels = []\n", "2: upstreams.x.models: is empty"),
        ('[upstreams.x]\nbase_url = "example.com/v1"\n', "2: upstreams.x.base_url: must be a URL"),
        ('[upstreams.x]\nbase_url = "http://h/v1?k=1"\n', "2: upstreams.x.base_url: must not hold"),
        ('[otlp]\nheaders_env = "a=b"\n', "2: otlp.headers_env: must be the NAME"),
        (
            '[upstreams.x]\n[features.f]\ntargets = [{upstream="x"},\n {upstream="x"}]\n',
            "4: features.f.targets[1]: repeats `x` in tier 0",
        ),
        (
            '[upstreams.x]\n[features.f]\ntargets = [{upstream = "x", weight = 0}]\n',
            "3: features.f.targets: tier 0 has no target with a `weight` above 0",
        ),
        ('[limits.a]\nscope = "feature"\n', "1: limits.a: it limits nothing"),
        (
            '[limits.a]\nusd = 5\nper = "run"\nrolling = true\n',
            "4: limits.a.rolling: only an hour, day or month can roll",
        ),
        ('[limits.a]\nusd = 5\ntimezone = "Mars/X"\n', "3: limits.a.timezone: no time zone"),
        (
            '[features.f.policies]\nidentiy = "off"\n',
            "2: features.f.policies.identiy: there is no such policy; did you mean `identity`?",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_named(
    tmp_path: Path, text: str, message: str
) -> None:
    (found,) = problems(tmp_path, text)
    assert found.startswith(f"tocsin.toml:{message}")


def test_false_takes_a_ceiling_away(tmp_path: Path) -> None:
    config = load(write(tmp_path, "[store]\nkeep_days = false\nmax_gib = false\n"), {})
    assert (config.store.keep_days, config.store.max_gib) == (None, None)


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, '[server]\nport = 1\nhost = "::1"\n')
    env = {"TOCSIN_PORT": "4700", "TOCSIN_DATA_DIR": "/data", "TOCSIN_STORE_URL": "sqlite:////x"}
    config = load(path, env)
    assert (config.server.port, config.server.host) == (4700, "::1")
    assert (config.server.data_dir, config.store.url) == ("/data", "sqlite:////x")


def test_paths_in_the_file_start_at_its_folder(tmp_path: Path) -> None:
    (tmp_path / "calls.jsonl").touch()
    text = '[server]\ndata_dir = "data"\n[upstreams.r]\nkind = "replay"\npath = "calls.jsonl"\n'
    config = load(write(tmp_path, text), {})
    assert config.server.data_dir == str(tmp_path / "data")
    assert config.upstreams["r"].path == str(tmp_path / "calls.jsonl")
    assert load(write(tmp_path, ""), {}).server.data_dir == str(tmp_path / ".tocsin")


def test_a_missing_variable_is_a_warning_and_no_problem(tmp_path: Path) -> None:
    path = write(tmp_path, '[upstreams.x]\napi_key_env = "X_KEY"\n')
    (note,) = warnings(load(path, {}), {})
    assert note.startswith("upstreams.x.api_key_env: the environment variable X_KEY is not set")
    assert warnings(load(path, {}), {"X_KEY": "1"}) == []


@pytest.mark.parametrize(
    ("settings", "places"),
    [
        ('base_url = "https://x.example/v1"', ["upstreams.main.background"]),
        ('kind = "anthropic"\napi = "responses"', ["upstreams.main.background"]),
        ('base_url = "https://x.example/v1"\napi = "responses"', []),
    ],
)
def test_background_needs_an_upstream_that_keeps_responses(
    tmp_path: Path, settings: str, places: list[str]
) -> None:
    path = tmp_path / "tocsin.toml"
    path.write_text(f"[upstreams.main]\nbackground = true\n{settings}\n")
    assert [note.partition(":")[0] for note in warnings(load(path, {}), {})] == places


def test_a_file_that_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file; name another with --config"):
        load(tmp_path / "gone.toml", {})
    (tmp_path / "bad.toml").write_bytes(b"a = \xff")
    with pytest.raises(ConfigError, match="byte 4 is not UTF-8"):
        load(tmp_path / "bad.toml", {})


def test_the_file_in_the_folder_is_found_unless_another_is_named(tmp_path: Path) -> None:
    assert find({}, tmp_path) is None
    path = write(tmp_path, "")
    assert find({}, tmp_path) == path
    assert find({"TOCSIN_CONFIG": "/etc/t.toml"}, tmp_path) == Path("/etc/t.toml")


def test_what_changed_between_two_configurations_is_named(tmp_path: Path) -> None:
    old = load(write(tmp_path, "[upstreams.a]\n"), {})
    new = load(write(tmp_path, "[upstreams.a]\nretries = 0\n[features.f]\n"), {})
    assert changed(old, new) == (
        "upstreams.a.retries",
        "features.f.targets",
        "features.f.agents",
        "features.f.signals",
        "features.f.checks",
        "features.f.require_idempotency_key",
    )
    assert changed(old, old) == ()


def test_a_shown_configuration_holds_no_password(tmp_path: Path) -> None:
    env = {"TOCSIN_STORE_URL": "postgresql://me:hunter2@db/x"}
    shown = flattened(load(None, env))
    assert shown["store.url"] == "postgresql://me:…@db/x"
    assert "hunter2" not in str(shown)
    assert shown["upstreams.openai.models"] == ["*"]


def test_a_suite_on_no_upstream_and_a_judge_without_a_model_are_named(tmp_path: Path) -> None:
    text = '[upstreams.main]\n[sentinels.s]\nfeature = "f"\nupstreams = ["main", "mian"]\n'
    with pytest.raises(InvalidConfig) as found:
        load(write(tmp_path, text), {})
    assert "sentinels.s.upstreams[1]: there is no upstream `mian`; did you mean `main`?" in str(
        found.value
    )
    with pytest.raises(InvalidConfig, match=r"judges\.j\.model"):
        load(write(tmp_path, '[judges.j]\nmodel = ""\n'), {})


def test_a_bound_that_is_not_reached_is_told(tmp_path: Path) -> None:
    text = '[objectives.o]\nfeature = "f"\nsignal = "s"\ntarget = 1.5\n'
    with pytest.raises(InvalidConfig, match="a number above 0 and below 1"):
        load(write(tmp_path, text), {})

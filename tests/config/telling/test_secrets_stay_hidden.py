"""No output, no message and no repr shows a secret, wherever it was set."""

from __future__ import annotations

import json
import traceback

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from exporter.config import describe, describe_json, load
from exporter.errors import ConfigError

CANARY = "sk-canary-5f3a"
EXTERNAL = '[[targets]]\nurl = "http://e:8000"\n'
MANAGED = '[[targets]]\nmode = "managed"\n[targets.container]\nmodel = "m"\n'
ENV = "VLLM_EXPORTER_TARGETS__0__"

GOOD = {
    "key in a file": {"toml": EXTERNAL + f'api_key = "{CANARY}"'},
    "key in .env": {"toml": EXTERNAL, "dotenv": f"{ENV}API_KEY={CANARY}"},
    "key in the environment": {"toml": EXTERNAL, "env": {f"{ENV}API_KEY": CANARY}},
    "key in the secrets directory": {
        "toml": EXTERNAL,
        "secrets": {f"{ENV}API_KEY".lower(): CANARY},
    },
    "key on the command line": {"toml": EXTERNAL, "cli": {"targets.0.api_key": CANARY}},
    "plain token": {"toml": MANAGED, "env": {"HF_TOKEN": CANARY}},
    "token where it has no effect": {"toml": EXTERNAL, "env": {"HF_TOKEN": CANARY}},
    "secret variable": {"toml": MANAGED + f'secret_environment = {{ AWS_KEY = "{CANARY}" }}'},
    "any value of the secrets directory": {
        "toml": EXTERNAL,
        "secrets": {f"{ENV}METRICS_URL": f"http://h/{CANARY}"},
    },
    "a whole list in the secrets directory": {
        "secrets": {"vllm_exporter_targets": json.dumps([{"url": f"http://h/{CANARY}"}])}
    },
}
BAD = {
    "misspelt key": {"toml": EXTERNAL + f'api_kye = "{CANARY}"'},
    "misspelt variable": {"env": {"VLLM_EXPORTER_APIKEY": CANARY}},
    "key of the wrong type": {"toml": EXTERNAL + f'api_key = ["{CANARY}"]'},
    "list that is no JSON": {"env": {"VLLM_EXPORTER_TARGETS": f'[{{"api_key": "{CANARY}"'}},
    "list as an object": {"env": {"VLLM_EXPORTER_TARGETS": json.dumps({"api_key": CANARY})}},
    "section as text": {"toml": f'targets = ["{CANARY}"]'},
    "container as text": {"toml": EXTERNAL + f'container = "{CANARY}"'},
    "key beside another mistake": {"toml": EXTERNAL + f'api_key = "{CANARY}"\nverify_tls = "x"'},
    "key beside its file": {"toml": EXTERNAL + f'api_key = "{CANARY}"\napi_key_file = "x"'},
    "key in place of its file": {"toml": EXTERNAL, "env": {f"{ENV}API_KEY_FILE": CANARY}},
    "key in place of its file, in TOML": {"toml": EXTERNAL + f'api_key_file = "{CANARY}"'},
    "password in the URL": {"toml": f'[[targets]]\nurl = "http://u:{CANARY}@h"'},
    "password without a scheme": {"toml": f'[[targets]]\nurl = "u:{CANARY}@h"'},
    "key in the query": {"toml": f'[[targets]]\nurl = "http://h/?key={CANARY}"'},
    "key in the fragment": {"toml": f'[[targets]]\nurl = "http://h/#{CANARY}"'},
    "password in VLLM_HOST": {"env": {"VLLM_HOST": f"u:{CANARY}@h"}},
    "password of Docker": {"toml": MANAGED + f'docker_host = "tcp://u:{CANARY}@h:1"'},
    "flag with a key": {"toml": MANAGED + f'args = ["--api-key={CANARY}"]'},
    "flag and a key": {"toml": MANAGED + f'args = ["--api-key", "{CANARY}"]'},
    "flag and a key in one": {"toml": MANAGED + f'args = ["--api-key {CANARY}"]'},
    "key with a space": {"toml": MANAGED + f'args = ["--x", " {CANARY}"]'},
    "command with a key": {"toml": MANAGED + f'command = ["serve", "--api_key={CANARY}"]'},
    "script with a key": {"toml": MANAGED + f'command = ["sh", "-c", "vllm --api-key {CANARY}"]'},
    "command with a space": {"toml": MANAGED + f'command = ["vllm", " {CANARY}"]'},
    "args as text": {"toml": MANAGED + f'args = "--api-key {CANARY}"'},
    "secret in the environment": {"toml": MANAGED + f'environment = {{ HF_TOKEN = "{CANARY}" }}'},
    "environment as text": {"toml": MANAGED + f'environment = "HF_TOKEN={CANARY}"'},
    "secret variable that has a key": {
        "toml": MANAGED + f'secret_environment = {{ HF_TOKEN = "{CANARY}" }}'
    },
    "bad value in the secrets directory": {"secrets": {"vllm_exporter_log__level": CANARY}},
    "bad TOML": {"toml": f'api_key = "{CANARY}'},
    "bad .env": {"dotenv": f"'{CANARY}"},
    "token on the command line": {"cli": {"targets": f'[{{"api_key": "{CANARY}", "x": 1}}]'}},
    "attached with a token": {
        "toml": '[[targets]]\nmode = "attached"\nurl = "http://v"\n[targets.container]\n'
        f'name = "v1"\nhf_token = "{CANARY}"'
    },
}


@pytest.mark.parametrize("given_texts", GOOD.values(), ids=GOOD.keys())
def test_printed_settings_show_no_secret(load_text, given_texts):
    loaded = load_text(**given_texts)
    assert CANARY not in describe(loaded)
    assert CANARY not in describe_json(loaded)
    assert CANARY not in f"{loaded.ignored}{loaded.sources}"


@pytest.mark.parametrize(
    "name", [name for name in GOOD if "of the secrets" not in name and "list" not in name]
)
def test_a_repr_shows_no_secret(load_text, name):
    assert CANARY not in repr(load_text(**GOOD[name]))


@pytest.mark.parametrize("given_texts", BAD.values(), ids=BAD.keys())
def test_the_message_of_a_mistake_shows_no_secret(load_text, given_texts):
    with pytest.raises(ConfigError) as caught:
        load_text(**given_texts)
    assert CANARY not in "".join(traceback.format_exception(caught.value))


scalars = st.sampled_from([CANARY, f"http://u:{CANARY}@h", 0, True, None])
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["api_key", "hf_token", "container", "args", "environment", "HF_TOKEN"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
places = st.sampled_from(
    ["api_key", "hf_token", "url", "container", "args", "environment", "api_key_file", "nonsense"]
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(target=st.dictionaries(places, values), mode=st.sampled_from(["managed", "external", "x"]))
def test_no_shape_of_a_bad_target_shows_the_secret_in_it(tmp_path, target, mode):
    text = json.dumps([{**target, "mode": mode, "verify_tls": "never"}])
    with pytest.raises(ConfigError) as caught:
        load(
            environ={"VLLM_EXPORTER_TARGETS": text},
            dotenv=None,
            secrets_dir=tmp_path,
        )
    assert CANARY not in "".join(traceback.format_exception(caught.value))

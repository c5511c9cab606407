"""Invalid values, and the exact message for each."""

from __future__ import annotations

import pytest

from exporter.errors import ConfigError

EXTERNAL = '[[targets]]\nurl = "http://e:8000"\n'
MANAGED = '[[targets]]\nmode = "managed"\n[targets.container]\nmodel = "m"\n'

BAD = {
    "no_number": (
        {"toml": '[probe]\ninterval_seconds = "often"'},
        [
            'exporter.toml: probe.interval_seconds = "often": must be a number',
        ],
    ),
    "too_small": (
        {"toml": "[probe]\ninterval_seconds = 0"},
        [
            "exporter.toml: probe.interval_seconds = 0: must be above 0",
        ],
    ),
    "true is no number": (
        {"toml": "[probe]\nmax_tokens = true"},
        [
            "exporter.toml: probe.max_tokens = true: must be a number",
        ],
    ),
    "infinite": (
        {"toml": "[scrape]\ntimeout_seconds = inf"},
        [
            "exporter.toml: scrape.timeout_seconds = inf: must be a finite number",
        ],
    ),
    "fraction": (
        {"toml": "[probe]\nmax_tokens = 1.5"},
        [
            "exporter.toml: probe.max_tokens = 1.5: must be a whole number",
        ],
    ),
    "literal": (
        {"toml": '[log]\nformat = "xml"'},
        [
            'exporter.toml: log.format = "xml": must be "json" or "console"',
        ],
    ),
    "address of the pages": (
        {"toml": '[metrics]\nhttp_sd_address = "http://exporter:9477/"'},
        [
            (
                'exporter.toml: metrics.http_sd_address = "http://exporter:9477/": must be a host, '
                'with a port or without, such as "exporter.example:9477"'
            ),
        ],
    ),
    "unknown key": (
        {"toml": "[probe]\nintervall_seconds = 3"},
        [
            "exporter.toml: probe.intervall_seconds: unknown key; did you mean probe.interval_seconds?",
        ],
    ),
    "unknown key elsewhere": (
        {"toml": "grace_seconds = 3"},
        [
            "exporter.toml: grace_seconds: unknown key; did you mean shutdown.grace_seconds?",
        ],
    ),
    "unknown section": (
        {"toml": "[prob]\ninterval_seconds = 3"},
        [
            "exporter.toml: prob: unknown key; did you mean probe?",
        ],
    ),
    "section no table": (
        {"toml": "probe = 3"},
        [
            "exporter.toml: probe = 3: must be a table",
        ],
    ),
    "targets table": (
        {"toml": '[targets]\nname = "a"'},
        [
            "exporter.toml: targets: must be a list: write [[targets]]",
        ],
    ),
    "targets text": (
        {"toml": 'targets = "a"'},
        [
            "exporter.toml: targets: must be a list",
        ],
    ),
    "listen": (
        {"toml": 'listen = "9477"'},
        [
            'exporter.toml: listen = "9477": must be "host:port" with a port from 0 to 65535, an IPv6 address in brackets, such as "127.0.0.1:9477", ":9477" or "[::1]:9477"',
        ],
    ),
    "listen ipv6": (
        {"toml": 'listen = "[::g]:9477"'},
        [
            'exporter.toml: listen = "[::g]:9477": must be "host:port" with a port from 0 to 65535, an IPv6 address in brackets, such as "127.0.0.1:9477", ":9477" or "[::1]:9477"',
        ],
    ),
    "listen port": (
        {"toml": 'listen = "127.0.0.1:99999"'},
        [
            'exporter.toml: listen = "127.0.0.1:99999": must be "host:port" with a port from 0 to 65535, an IPv6 address in brackets, such as "127.0.0.1:9477", ":9477" or "[::1]:9477"',
        ],
    ),
    "toml syntax": (
        {"toml": "[probe]\nmax_tokens = \n"},
        [
            "exporter.toml: is not TOML: Invalid value (at line 2, column 14)",
        ],
    ),
    "toml twice": (
        {"toml": "[probe]\nmax_tokens = 1\nmax_tokens = 2\n"},
        [
            "exporter.toml: is not TOML: Cannot overwrite a value (at line 3, column 15)",
        ],
    ),
    "url scheme": (
        {"toml": '[[targets]]\nurl = "ftp://h"'},
        [
            'exporter.toml: targets[0].url = "ftp://h": must be an http or https URL, such as "http://127.0.0.1:8000"',
        ],
    ),
    "url without port": (
        {"toml": '[[targets]]\nurl = "gpu-box/v1/"'},
        [
            'exporter.toml: targets[0].url = "gpu-box/v1/": must be an http or https URL, such as "http://127.0.0.1:8000"',
        ],
    ),
    "url creds": (
        {"toml": '[[targets]]\nurl = "http://user:pw@h:8000"'},
        [
            'exporter.toml: targets[0].url = "http://********@h:8000": must not contain a user or password: use api_key or api_key_file',
        ],
    ),
    "url query": (
        {"toml": '[[targets]]\nurl = "http://h:8000?key=abc"'},
        [
            'exporter.toml: targets[0].url = "http://h:8000?********": must not contain a query or fragment',
        ],
    ),
    "url missing": (
        {"toml": '[[targets]]\nname = "a"'},
        [
            'exporter.toml: targets[0].url: is required in mode "external", such as "http://127.0.0.1:8000"',
        ],
    ),
    "mode": (
        {"toml": '[[targets]]\nmode = "magic"\nurl = "http://h"'},
        [
            'exporter.toml: targets[0].mode = "magic": must be "managed", "attached" or "external"',
        ],
    ),
    "name": (
        {"toml": '[[targets]]\nname = "a b"\nurl = "http://h"'},
        [
            'exporter.toml: targets[0].name = "a b": must be 1 to 64 letters, digits, "_", "." or "-": it becomes a label value',
        ],
    ),
    "same names": (
        {
            "toml": '[[targets]]\nname="a"\nurl = "http://h"\n[[targets]]\nname="a"\nurl = "http://g"'
        },
        [
            'exporter.toml: targets[1].name = "a": must differ from the names of the other targets',
        ],
    ),
    "managed without container": (
        {"toml": '[[targets]]\nmode = "managed"'},
        [
            'exporter.toml: targets[0].container: is required in mode "managed"',
        ],
    ),
    "managed without model": (
        {"toml": '[[targets]]\nmode = "managed"\n[targets.container]\ngpus = 0'},
        [
            'exporter.toml: targets[0].container.model: is required in mode "managed"',
        ],
    ),
    "external with container": (
        {"toml": EXTERNAL + '[targets.container]\nmodel = "m"'},
        [
            'exporter.toml: targets[0].container: is not allowed in mode "external": set mode = "managed" or "attached"',
        ],
    ),
    "attached without selector": (
        {"toml": '[[targets]]\nmode="attached"\nurl = "http://h"\n[targets.container]\n'},
        [
            'exporter.toml: targets[0].container: needs either name or label in mode "attached"',
        ],
    ),
    "attached with image": (
        {
            "toml": '[[targets]]\nmode="attached"\nurl = "http://h"\n[targets.container]\nname="vllm"\nimage="a:1"'
        },
        [
            'exporter.toml: targets[0].container.image = "a:1": is for mode "managed" only: the exporter did not create this container',
        ],
    ),
    "attached both": (
        {
            "toml": '[[targets]]\nmode="attached"\nurl = "http://h"\n[targets.container]\nname="vllm"\nlabel="a=b"'
        },
        [
            'exporter.toml: targets[0].container: needs either name or label in mode "attached"',
        ],
    ),
    "managed label": (
        {"toml": MANAGED + 'label="a"'},
        [
            'exporter.toml: targets[0].container.label = "a": is for mode "attached" only: use name',
        ],
    ),
    "image": (
        {"toml": MANAGED + 'image="vllm/vllm-openai"'},
        [
            'exporter.toml: targets[0].container.image = "vllm/vllm-openai": must be an image with a tag or a digest, such as "vllm/vllm-openai:v0.32.0"',
        ],
    ),
    "image latest": (
        {"toml": MANAGED + 'image="vllm/vllm-openai:latest"'},
        [
            'exporter.toml: targets[0].container.image = "vllm/vllm-openai:latest": must have a tag that stays the same, such as "vllm/vllm-openai:v0.32.0"',
        ],
    ),
    "gpus": (
        {"toml": MANAGED + "gpus=-1"},
        [
            'exporter.toml: targets[0].container.gpus = -1: must be "all", a count (0 for none) or a list of device ids',
        ],
    ),
    "gpus word": (
        {"toml": MANAGED + 'gpus="some"'},
        [
            'exporter.toml: targets[0].container.gpus = "some": must be "all", a count (0 for none) or a list of device ids',
        ],
    ),
    "gpu mem": (
        {"toml": MANAGED + "gpu_memory_utilization=90"},
        [
            "exporter.toml: targets[0].container.gpu_memory_utilization = 90: must be 1 or less",
        ],
    ),
    "log requests": (
        {"toml": MANAGED + 'args=["--disable-log-requests"]'},
        [
            'exporter.toml: targets[0].container.args[0] = "--disable-log-requests": is unknown to vLLM since 0.17, so the server would not start: use --no-enable-log-requests',
        ],
    ),
    "enable metrics": (
        {
            "toml": MANAGED
            + 'image="vllm/vllm-openai:v0.8.5"\nargs=["--enable-metrics", "--disable-log-requests"]'
        },
        [
            'exporter.toml: targets[0].container.args[0] = "--enable-metrics": is not a flag of vLLM, which always serves /metrics: leave it out',
        ],
    ),
    "port arg": (
        {"toml": MANAGED + 'args=["--port=9", "--host", "0.0.0.0"]'},
        [
            'exporter.toml: targets[0].container.args[0] = "--port": is set by the exporter: use host_port for the published port',
            'exporter.toml: targets[0].container.args[1] = "--host": is set by the exporter: use host_ip for the published address',
        ],
    ),
    "model arg": (
        {"toml": MANAGED + 'args=["--model", "x"]'},
        [
            'exporter.toml: targets[0].container.args[0] = "--model": has its own key: use model',
        ],
    ),
    "both": (
        {"toml": MANAGED + 'max_model_len=4096\nargs=["--max_model_len", "8192"]'},
        [
            'exporter.toml: targets[0].container.args[0] = "--max-model-len": contradicts the key max_model_len, which is also set: keep one of them',
        ],
    ),
    "api key arg": (
        {"toml": MANAGED + 'args=["--api-key", "sk-1"]'},
        [
            'exporter.toml: targets[0].container.args[0] = "--api-key": must not be on a command line, where other users can read it: use the target\'s api_key or api_key_file',
        ],
    ),
    "one string": (
        {"toml": MANAGED + 'args=["--max-num-seqs 4"]'},
        [
            'exporter.toml: targets[0].container.args[0] = "--max-num-seqs": must be two entries: the flag and its value',
        ],
    ),
    "args no list": (
        {"toml": MANAGED + 'args="--max-num-seqs"'},
        [
            'exporter.toml: targets[0].container.args = "--max-num-seqs": must be a list',
        ],
    ),
    "env secret": (
        {"toml": MANAGED + 'environment={HF_TOKEN="x", MY_PASSWORD="y", "a-b"="c"}'},
        [
            "exporter.toml: targets[0].container.environment.a-b: must be the name of an environment variable",
            "exporter.toml: targets[0].container.environment.HF_TOKEN: looks like a secret: use hf_token or hf_token_file",
            "exporter.toml: targets[0].container.environment.MY_PASSWORD: looks like a secret: use secret_environment",
        ],
    ),
    "shm": (
        {"toml": MANAGED + 'shm_size="lots"'},
        [
            'exporter.toml: targets[0].container.shm_size = "lots": must be a size above 0, such as "8g", "512m" or a number of bytes',
        ],
    ),
    "port 0": (
        {"toml": MANAGED + "host_port=0"},
        [
            "exporter.toml: targets[0].container.host_port = 0: publishes no port: set the target's url",
        ],
    ),
    "docker host": (
        {"toml": MANAGED + 'docker_host="/var/run/docker.sock"'},
        [
            'exporter.toml: targets[0].container.docker_host = "/var/run/docker.sock": must be "unix:///path" or "tcp://host:port" (http, https too), without credentials',
        ],
    ),
    "backoff": (
        {"toml": MANAGED + "[targets.container.backoff]\ninitial_seconds=60\nmax_seconds=10"},
        [
            "exporter.toml: targets[0].container.backoff.max_seconds = 10: must not be below initial_seconds, which is 60",
        ],
    ),
    "command": (
        {"toml": MANAGED + 'command=["simulate"]'},
        [
            'exporter.toml: targets[0].container.model = "m": has no effect with command: keep one of them',
        ],
    ),
    "both secrets": (
        {"toml": EXTERNAL + 'api_key="a"\napi_key_file="b"'},
        [
            "exporter.toml: targets[0].api_key: is set together with targets[0].api_key_file: keep one of them",
        ],
    ),
    "no file": (
        {"toml": EXTERNAL + 'api_key_file="nowhere"'},
        [
            'exporter.toml: targets[0].api_key_file = "nowhere": cannot be read: No such file or directory',
        ],
    ),
    "history": (
        {"toml": "[history]\nsessions=5"},
        [
            "default: history.failures = 10: must be below sessions, which is 5",
        ],
    ),
}


@pytest.mark.parametrize(("configuration", "lines"), BAD.values(), ids=BAD.keys())
def test_each_mistake_names_source_key_value_and_what_is_allowed(mistakes_of, configuration, lines):
    assert mistakes_of(**configuration) == lines


def test_of_thousands_of_mistakes_the_first_are_shown_and_the_rest_counted(load_text):
    with pytest.raises(ConfigError) as caught:
        load_text("\n".join(f"wrong{number} = 1" for number in range(5000)))
    first, *told = str(caught.value).splitlines()
    assert first == "The configuration has 5000 mistakes:"
    assert len(told) == 101
    assert told[-1] == "  and 4900 more"

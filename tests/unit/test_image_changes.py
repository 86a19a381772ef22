"""Instructions of --change: what they make of a configuration, and what is refused."""

from __future__ import annotations

import pytest

from fastctr.errors import SpecError
from fastctr.image.instruction_words import expand, expand_words, pairs, split_words
from fastctr.image.instructions import KEYWORDS, apply, parse


def made(*lines, **config):
    return apply(config, lines)


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ('CMD ["a", "b c"]', "Cmd", ["a", "b c"]),
        ("CMD echo $HOME && true", "Cmd", ["/bin/sh", "-c", "echo $HOME && true"]),
        ("cmd\tls", "Cmd", ["/bin/sh", "-c", "ls"]),
        ('CMD ["a", 1]', "Cmd", ["/bin/sh", "-c", '["a", 1]']),
        ("CMD []", "Cmd", []),
        ('ENTRYPOINT ["/x"]', "Entrypoint", ["/x"]),
        ("ENTRYPOINT exec top -b", "Entrypoint", ["/bin/sh", "-c", "exec top -b"]),
        ('SHELL ["/bin/bash", "-ec"]', "Shell", ["/bin/bash", "-ec"]),
        ("ENV a=1 b='two words' c=\"q $a\" d=e\\ f", "Env", ["a=1", "b=two words", "c=q ", "d=e f"]),
        ("ENV key a value with  blanks", "Env", ["key=a value with  blanks"]),
        ('ENV key "quoted"', "Env", ["key=quoted"]),
        ("ENV a=b=c", "Env", ["a=b=c"]),
        ("ENV a=", "Env", ["a="]),
        ("EXPOSE 80", "ExposedPorts", {"80/tcp": {}}),
        ("EXPOSE 53/UDP 7000-7002 8080/tcp", "ExposedPorts",
         {"53/udp": {}, "7000/tcp": {}, "7001/tcp": {}, "7002/tcp": {}, "8080/tcp": {}}),
        ("LABEL a=b \"c d\"='e f'", "Labels", {"a": "b", "c d": "e f"}),
        ("LABEL one value here", "Labels", {"one": "value here"}),
        ("USER alice:staff", "User", "alice:staff"),
        ("USER 0", "User", "0"),
        ("VOLUME /data", "Volumes", {"/data": {}}),
        ("VOLUME /a /b", "Volumes", {"/a": {}, "/b": {}}),
        ('VOLUME ["/a b", "/c"]', "Volumes", {"/a b": {}, "/c": {}}),
        ("WORKDIR /srv/../opt//x/", "WorkingDir", "/opt/x"),
        ("WORKDIR rel", "WorkingDir", "/rel"),
        ("STOPSIGNAL SIGQUIT", "StopSignal", "SIGQUIT"),
        ("STOPSIGNAL 9", "StopSignal", "9"),
        ("STOPSIGNAL SIGRTMIN+3", "StopSignal", "SIGRTMIN+3"),
        ("ONBUILD RUN make", "OnBuild", ["RUN make"]),
        ("HEALTHCHECK NONE", "Healthcheck", {"Test": ["NONE"]}),
        ("HEALTHCHECK CMD curl -f localhost", "Healthcheck", {"Test": ["CMD-SHELL", "curl -f localhost"]}),
        ('HEALTHCHECK --interval=1m30s --timeout=500ms --retries=3 --start-period=2h CMD ["x", "y"]', "Healthcheck",
         {"Test": ["CMD", "x", "y"], "Interval": 90 * 10**9, "Timeout": 5 * 10**8, "StartPeriod": 7200 * 10**9,
          "Retries": 3}),
    ],
)  # fmt: skip
def test_one_instruction(line, key, value):
    assert made(line) == {key: value}


def test_variables_come_from_the_environment():
    config = made("ENV where=/srv", "ENV where=${where}/app", "WORKDIR $where", "LABEL at=${where} no='$where'",
                  "EXPOSE ${port:-80}", "VOLUME $where/data", "USER ${who:-nobody}", "CMD $where")  # fmt: skip
    assert config["Env"] == ["where=/srv/app"]
    assert config["WorkingDir"] == "/srv/app"
    assert config["Labels"] == {"at": "/srv/app", "no": "$where"}
    assert config["ExposedPorts"] == {"80/tcp": {}}
    assert config["Volumes"] == {"/srv/app/data": {}}
    assert config["User"] == "nobody"
    assert config["Cmd"] == ["/bin/sh", "-c", "$where"], "a command's variables are its shell's"


def test_variables_of_one_line_are_those_before_it():
    assert made("ENV a=new b=$a", Env=["a=old"])["Env"] == ["a=new", "b=old"]


def test_what_was_there_is_kept_or_replaced():
    base = {"Env": ["a=1", "PATH=/bin"], "Labels": {"x": "1"}, "ExposedPorts": {"1/tcp": {}}, "WorkingDir": "/srv",
            "Cmd": ["old"], "OnBuild": ["RUN a"]}  # fmt: skip
    after = made("ENV a=2 b=3", "LABEL y=2", "EXPOSE 2", "WORKDIR sub", "ONBUILD RUN b", **base)
    assert after == {
        "Env": ["a=2", "PATH=/bin", "b=3"], "Labels": {"x": "1", "y": "2"}, "ExposedPorts": {"1/tcp": {}, "2/tcp": {}},
        "WorkingDir": "/srv/sub", "Cmd": ["old"], "OnBuild": ["RUN a", "RUN b"],
    }  # fmt: skip
    assert base["Env"] == ["a=1", "PATH=/bin"] and base["Labels"] == {"x": "1"}, "the one given stays as it is"


def test_a_new_entrypoint_drops_the_old_command():
    assert made('ENTRYPOINT ["/x"]', Cmd=["old"]) == {"Entrypoint": ["/x"]}
    assert made("CMD new", 'ENTRYPOINT ["/x"]', Cmd=["old"])["Cmd"] == ["/bin/sh", "-c", "new"]
    assert made("ENTRYPOINT []", Entrypoint=["/x"], Cmd=["old"]) == {}


def test_shell_is_what_shell_forms_run_in():
    config = made('SHELL ["/bin/bash", "-c"]', "CMD a", "ENTRYPOINT b")
    assert config["Cmd"] == ["/bin/bash", "-c", "a"] and config["Entrypoint"] == ["/bin/bash", "-c", "b"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("", "does not start with an instruction"),
        ("CMDD x", "did you mean CMD"),
        ("RUN make", "builds"),
        ("FROM scratch", "builds"),
        ("CMD", "needs an argument"),
        ("ENV", "needs an argument"),
        ("ENV lonely", "has a name and no value"),
        ("ENV a=b lonely", '"lonely", which is not name=value'),
        ("ENV a='open", "without an end"),
        ('LABEL a="open', "without an end"),
        ("ENV =x", "which is not name=value"),
        ("EXPOSE http", "is not a port"),
        ("EXPOSE 80/icmp", "is not a port"),
        ("EXPOSE 0", "1 to 65535"),
        ("EXPOSE 90-80", "not a range"),
        ("EXPOSE 65536", "1 to 65535"),
        ("USER a b", "is not a user"),
        ("STOPSIGNAL SIGNONE", "is not a signal"),
        ("STOPSIGNAL 65", "is not a signal"),
        ("SHELL /bin/sh", "exec form"),
        ("SHELL []", "exec form"),
        ("ONBUILD ONBUILD RUN x", "cannot be put off"),
        ("ONBUILD nonsense", "is not an instruction"),
        ("HEALTHCHECK sometimes", "neither NONE nor CMD"),
        ("HEALTHCHECK CMD", "neither NONE nor CMD"),
        ("HEALTHCHECK NONE now", "takes no arguments"),
        ("HEALTHCHECK --interval=soon CMD x", "not a duration"),
        ("HEALTHCHECK --interval=1us CMD x", "less than a millisecond"),
        ("HEALTHCHECK --when=1s CMD x", "not an option"),
        ("HEALTHCHECK --timeout=1s --timeout=2s CMD x", "twice"),
        ("HEALTHCHECK --retries=-1 CMD x", "not a number of times"),
        ('VOLUME [""]', "empty path"),
        ("WORKDIR ${", "without a variable"),
        ("WORKDIR ${a", "without a }"),
        ("WORKDIR ${a:?must be set}", "needs the variable a: must be set"),
        ("WORKDIR ${a/x/y}", "not a form of variables"),
    ],
)
def test_refused(line, problem):
    with pytest.raises(SpecError) as caught:
        made(line)
    assert problem in str(caught.value), str(caught.value)
    assert caught.value.field == "change"


def test_something_else_than_text():
    with pytest.raises(SpecError, match="is not a Dockerfile instruction"):
        parse(["CMD", "x"])


def test_every_keyword_is_taken():
    for word in KEYWORDS:
        assert parse(f"{word.lower()} x").keyword == word


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b", ["a", "b"]),
        ("  a\t b  ", ["a", "b"]),
        ("'a b' c", ["a b", "c"]),
        ('"a b"c', ["a bc"]),
        ("a\\ b", ["a b"]),
        ('""', [""]),
        ("''x", ["x"]),
        ("$two", ["1", "2"]),
        ('"$two"', ["1 2"]),
        ("x$two.y", ["x1", "2.y"]),
        ("$none", []),
        ("$none x", ["x"]),
        ("x$none", ["x"]),
        ('"$none"', [""]),
        ("\\$two", ["$two"]),
        ("'$two'", ["$two"]),
        ('"\\$two \\" \\x"', ['$two " \\x']),
        ("${two:+yes} ${none:+yes} ${none:-d e}", ["yes", "d", "e"]),
        ("${none-x} ${empty-x} ${empty:-x}", ["x", "x"]),
        ("${none:-${two}}", ["1", "2"]),
        ("$", ["$"]),
        ("a$ b", ["a$", "b"]),
        ("trailing\\", ["trailing\\"]),
    ],
)  # fmt: skip
def test_words(text, words):
    assert expand_words(text, {"two": "1 2", "empty": ""}) == words


def test_splitting_keeps_quotes():
    assert split_words("a='b c' d\"e f\" g\\ h") == ["a='b c'", 'd"e f"', "g\\ h"]
    assert pairs("a='b c' d=\"e\"", "ENV") == [("a", "'b c'"), ("d", '"e"')]
    assert expand("'b c'", {}) == "b c"


def test_another_escape_character():
    assert expand_words("a` b c\\d", {}, "`") == ["a b", "c\\d"]

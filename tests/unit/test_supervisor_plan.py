"""What `podbay up` starts, and where."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from podbay.certs import CertificateFolder
from podbay.cli import detached
from podbay.cli.root import cli
from podbay.local import ports
from podbay.local.faults import LocalError
from podbay.local.plan import UpSettings, check_ports, plan_services, read_service_option
from podbay.local.state import DataDir
from podbay.local.up_certificates import up_certificates
from tests.support.certificates import expired


def option(argv: tuple[str, ...], name: str) -> str:
    return argv[argv.index(name) + 1]


def test_each_service_gets_its_port_its_folder_and_the_others_addresses(tmp_path: Path):
    data = DataDir(tmp_path)
    registry, manager, router = plan_services(UpSettings(workers=3), data, python="py")
    assert registry.argv[:3] == ("py", "-m", "podbay_registry")
    assert option(registry.argv, "--listen") == "127.0.0.1:7101"
    assert option(registry.argv, "--admin-token-file") == str(data.admin_token_file)
    assert option(registry.argv, "--session-manager-endpoint") == "127.0.0.1:7102"
    assert option(registry.argv, "--inference-router-endpoint") == "127.0.0.1:7103"
    assert option(manager.argv, "--registry-endpoint") == "127.0.0.1:7101"
    assert option(manager.argv, "--drivers") == "process,inprocess,attached"
    assert "--stop-replicas-on-exit" in manager.argv
    assert option(router.argv, "--session-manager-endpoint") == "127.0.0.1:7102"
    assert option(router.argv, "--workers") == "3"
    folders = {option(spec.argv, "--data-dir") for spec in (registry, manager, router)}
    assert folders == {str(tmp_path / name) for name in ("registry", "session-manager", "router")}
    for spec in (registry, manager, router):
        assert "--exit-with-parent" in spec.argv
        assert option(spec.argv, "--address-file") == str(spec.address_file)
    assert [spec.after_others for spec in (registry, manager, router)] == [False, False, True]


def test_what_the_registry_does_once_is_on_no_command_line_that_is_repeated(tmp_path: Path):
    data, once = DataDir(tmp_path), ("--reset-admin-token", "--keep-model-files")
    settings = UpSettings(reset_admin_token=True, keep_model_files=True)
    registry, manager, router = plan_services(settings, data)
    assert registry.once == once
    assert not manager.once + router.once
    assert registry.argv == plan_services(UpSettings(), data)[0].argv
    assert set(once) < set(detached._arguments(data, settings))
    assert not set(once) & set(detached._arguments(data, UpSettings()))


def test_the_router_shows_its_numbers_where_it_is_told(tmp_path: Path):
    data = DataDir(tmp_path)
    for spec in plan_services(UpSettings(), data):
        assert "--metrics-listen" not in spec.argv
    settings = UpSettings(metrics_listen="127.0.0.1:9103")
    registry, manager, router = plan_services(settings, data)
    assert option(router.argv, "--metrics-listen") == "127.0.0.1:9103"
    assert "--metrics-listen" not in (*registry.argv, *manager.argv)
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = UpSettings(0, 0, 0, metrics_listen=f"127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(LocalError, match="metrics"):
            check_ports(taken)
    with pytest.raises(LocalError, match="7102"):
        check_ports(UpSettings(0, 7102, 0, metrics_listen="127.0.0.1:7102"))


def test_a_service_gets_the_options_that_are_named_for_it(tmp_path: Path):
    data = DataDir(tmp_path)
    texts = ("inference-router.max-body-bytes=1=2", "registry.audit-days=-1", "registry.no-such")
    settings = UpSettings(service_options=tuple(read_service_option(text) for text in texts))
    registry, manager, router = plan_services(settings, data)
    assert router.argv[-1] == "--max-body-bytes=1=2"
    assert registry.argv[-2:] == ("--audit-days=-1", "--no-such")
    assert manager.argv == plan_services(UpSettings(), data)[1].argv
    handed_on = detached._arguments(data, settings)
    assert [handed_on[at + 1] for at, part in enumerate(handed_on) if part == "--set"] == [*texts]


def test_what_podbay_up_sets_itself_is_not_set_twice(tmp_path: Path):
    settings = UpSettings(
        workers=2,
        metrics_listen="127.0.0.1:9103",
        signing_key_days=2,
        model_quota="1Gi",
        account_quota=("sessions=1",),
        no_fetch=True,
        hub_token_file=tmp_path / "hub",
        nodes=tmp_path / "nodes",
        runner_kinds=tmp_path / "kinds",
        allow_egress=True,
        allow_root_images=True,
        allow_unbounded_scratch=True,
        node_grace=1,
        gpu_probe_image="probe",
        gpu_probe_interval=1,
        model_cache_quota="1Gi",
        session_managers=2,
        manager_ports=(7109,),
        enable_process_driver=True,
        drivers=("process",),
        host="0.0.0.0",
        plain_text=True,
        reset_admin_token=True,
        keep_model_files=True,
    )
    for spec in plan_services(settings, DataDir(tmp_path)):
        for part in (*spec.argv, *spec.once):
            if part.startswith("--"):
                with pytest.raises(ValueError, match="sets itself"):
                    read_service_option(f"{spec.service}.{part[2:]}=1")


@pytest.mark.parametrize(
    "text", ["", "max-body-bytes=1", "router.x=1", "registry.=1", "registry.--x"]
)
def test_what_names_no_option_of_a_service_is_refused(text: str):
    with pytest.raises(ValueError, match="SERVICE.OPTION=VALUE"):
        read_service_option(text)
    result = CliRunner().invoke(cli, ["up", "--set", text])
    assert result.exit_code == 2
    assert "the services are registry, session-manager, inference-router" in " ".join(
        result.output.replace("│", " ").split()
    )


@pytest.mark.parametrize("address", ["", "127.0.0.1", ":9103", "::1:9103", "h:0", "h:65536", "h:x"])
def test_what_is_no_address_is_refused(address: str):
    with pytest.raises(ValueError, match="host"):
        ports.split(address)


def test_an_address_is_read_as_it_is_written():
    for host in ("127.0.0.1", "::1", "pod.example"):
        assert ports.split(ports.join(host, 9103)) == (host, 9103)


def test_no_secret_is_on_a_command_line(tmp_path: Path):
    data = DataDir(tmp_path)
    data.prepare()
    secret = data.service_token_file.read_text().strip()
    for spec in plan_services(UpSettings(), data):
        assert secret not in " ".join(spec.argv)


def test_services_reach_each_other_on_loopback_where_all_addresses_are_served(tmp_path: Path):
    settings = UpSettings(host="0.0.0.0", advertised_host="pod.example", plain_text=True)
    specs = registry, manager, _ = plan_services(settings, DataDir(tmp_path))
    assert option(registry.argv, "--listen") == "0.0.0.0:7101"
    assert option(registry.argv, "--inference-router-endpoint") == "pod.example:7103"
    assert option(manager.argv, "--registry-endpoint") == "127.0.0.1:7101"
    for spec in specs:
        assert "--allow-plain-text-off-loopback" in spec.argv
        assert "--tls" not in spec.argv


def test_services_have_certificates_where_others_can_reach_them(tmp_path: Path):
    data = DataDir(tmp_path)
    settings = check_ports(UpSettings(0, 0, 0, host="0.0.0.0", advertised_host="pod.example"))
    registry, manager, router = specs = plan_services(settings, data)
    for spec in specs:
        assert option(spec.argv, "--tls") == str(data.certificates / spec.name)
        assert "--service-token-file" not in spec.argv
        assert "--allow-plain-text-off-loopback" not in spec.argv
    for spec, caller, told in (
        (registry, manager, "--registry-endpoint"),
        (manager, router, "--session-manager-endpoint"),
    ):
        listen = option(spec.argv, "--service-listen")
        assert listen.startswith("127.0.0.1:")
        assert option(caller.argv, told) == listen
    assert "--service-listen" not in router.argv
    assert "pod.example" in settings.certificate_names()
    assert "127.0.0.1" not in settings.certificate_names()


def test_named_certificates_are_used_on_loopback_too(tmp_path: Path):
    settings = check_ports(UpSettings(0, 0, 0, tls=tmp_path / "certs"))
    for spec in plan_services(settings, DataDir(tmp_path)):
        assert option(spec.argv, "--tls") == str(tmp_path / "certs" / spec.name)
    with pytest.raises(LocalError, match="plain text was asked for"):
        UpSettings(tls=tmp_path, plain_text=True).certificates(DataDir(tmp_path))
    named = up_certificates(settings, DataDir(tmp_path))
    assert named is not None
    with pytest.raises(LocalError, match="no certificates of registry, session-manager"):
        named.prepare()


def test_own_certificates_are_made_and_renewed(tmp_path: Path):
    data = DataDir(tmp_path)
    assert up_certificates(UpSettings(), data) is None
    settings = UpSettings(host="0.0.0.0", advertised_host="pod.example")
    own = up_certificates(settings, data)
    assert own is not None
    assert own.prepare()
    assert not own.prepare()
    expired(CertificateFolder(own.folder), "registry")
    assert own.prepare()
    moved = up_certificates(UpSettings(host="0.0.0.0", advertised_host="other.example"), data)
    assert moved is not None
    assert moved.prepare()


def test_the_process_driver_is_off_where_others_can_reach_the_services(tmp_path: Path):
    assert UpSettings().allowed_drivers() == ("process", "inprocess", "attached")
    assert UpSettings(host="0.0.0.0").allowed_drivers() == ("inprocess",)
    allowed = UpSettings(host="0.0.0.0", enable_process_driver=True)
    assert allowed.allowed_drivers() == ("process", "inprocess", "attached")
    flag = "--allow-process-driver-off-loopback"
    assert flag in plan_services(allowed, DataDir(tmp_path))[1].argv
    assert flag not in plan_services(UpSettings(), DataDir(tmp_path))[1].argv
    with pytest.raises(LocalError, match="runs commands as your user"):
        UpSettings(host="0.0.0.0", drivers=("process",)).allowed_drivers()


def test_a_port_in_use_is_named_with_its_option_and_its_owner():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(LocalError) as caught:
            check_ports(UpSettings(0, port, 0))
    assert f"port {port}" in caught.value.message
    assert "process " in caught.value.message
    assert "--session-manager-port" in caught.value.way_out


def test_one_port_for_two_services_is_refused():
    with pytest.raises(LocalError, match="more than one service"):
        check_ports(UpSettings(7999, 7999, 0))


def test_free_ports_are_chosen_apart_and_outside_the_ephemeral_range():
    chosen = check_ports(UpSettings(0, 0, 0))
    numbers = {chosen.registry_port, chosen.session_manager_port, chosen.inference_router_port}
    assert len(numbers) == 3
    assert not numbers & set(ports.ephemeral_ports())
    assert all(ports.is_free("127.0.0.1", number) for number in numbers)


def test_stable_ports_are_what_outgoing_connections_never_get():
    assert ports.stable_ports(range(32768, 61000))[-1] == 65535
    assert 40000 not in ports.stable_ports(range(32768, 61000))
    # Where everything is ephemeral, any port is better than none.
    assert ports.stable_ports(range(1024, 65536))


def test_a_host_of_another_machine_is_refused():
    with pytest.raises(LocalError, match="no address of this machine"):
        ports.is_free("192.0.2.1", 7101)


def test_an_ipv6_host_is_written_in_brackets():
    assert ports.join("::1", 7101) == "[::1]:7101"


def test_the_registry_is_told_of_models(tmp_path: Path):
    settings = UpSettings(model_quota="5Gi", no_fetch=True, hub_token_file=Path("token"))
    registry, *others = plan_services(settings, DataDir(tmp_path))
    options = " ".join(registry.argv)
    assert f"--model-quota 5Gi --no-fetch --hub-token-file {Path('token').absolute()}" in options
    assert not any("--model-quota" in other.argv for other in others)


def test_several_session_managers_know_the_same_and_are_told_to_all(tmp_path: Path):
    data = DataDir(tmp_path)
    data.prepare()
    data.database_file.write_text("postgresql://pod:secret@db.example/podbay\n")
    settings = check_ports(
        UpSettings(0, 0, 0, session_managers=3, host="0.0.0.0", plain_text=True, workers=1)
    )
    settings.check_database(data)
    registry, *managers, router = specs = plan_services(settings, data)
    names = [spec.name for spec in managers]
    assert names == ["session-manager", "session-manager-2", "session-manager-3"]
    assert {spec.service for spec in managers} == {"session-manager"}
    assert managers[0].port == settings.session_manager_port
    assert len({spec.port for spec in specs}) == 5
    addresses = [f"127.0.0.1:{spec.port}" for spec in managers]
    for spec in (registry, router):
        assert option(spec.argv, "--session-manager-endpoint") == ",".join(addresses)
    assert [option(spec.argv, "--advertise-address") for spec in managers] == addresses
    assert len({spec.address_file for spec in specs}) == 5
    for spec in managers:
        assert option(spec.argv, "--data-dir") == str(tmp_path / "session-manager")
        assert option(spec.argv, "--database-file") == str(data.database_file)
        assert option(spec.argv, "--registry-endpoint") == f"127.0.0.1:{registry.port}"
    assert "--database-file" not in router.argv


def test_several_session_managers_have_one_certificate_and_their_own_addresses(tmp_path: Path):
    settings = check_ports(
        UpSettings(0, 0, 0, session_managers=2, host="0.0.0.0", advertised_host="pod.example")
    )
    registry, first, second, router = plan_services(settings, DataDir(tmp_path))
    certificates = str(DataDir(tmp_path).certificates / "session-manager")
    assert option(first.argv, "--tls") == option(second.argv, "--tls") == certificates
    inside = [option(spec.argv, "--service-listen") for spec in (registry, first, second)]
    assert len(set(inside)) == 3
    assert option(router.argv, "--session-manager-endpoint") == ",".join(inside[1:])
    assert option(first.argv, "--registry-endpoint") == inside[0]
    public = [f"pod.example:{spec.port}" for spec in (first, second)]
    assert option(registry.argv, "--session-manager-endpoint") == ",".join(public)


def test_several_session_managers_need_a_postgresql(tmp_path: Path):
    data = DataDir(tmp_path)
    UpSettings().check_database(data)
    with pytest.raises(LocalError, match="2 session managers") as caught:
        UpSettings(session_managers=2).check_database(data)
    assert caught.value.reason == "POSTGRESQL_NEEDED"
    assert "--database" in caught.value.way_out
    data.prepare()
    data.database_file.write_text("postgresql://db.example/podbay\n")
    UpSettings(session_managers=2).check_database(data)


def test_the_session_manager_is_told_the_age_of_keys_also_in_the_background(tmp_path: Path):
    data = DataDir(tmp_path)
    settings = UpSettings(session_managers=2, signing_key_days=0.5)
    _, manager, _ = plan_services(settings, data)
    assert option(manager.argv, "--signing-key-days") == "0.500000"
    assert "--signing-key-days" not in plan_services(UpSettings(), data)[1].argv
    arguments = tuple(detached._arguments(data, settings))
    assert option(arguments, "--signing-key-days") == "0.500000"
    assert option(arguments, "--session-managers") == "2"
    plain = detached._arguments(data, UpSettings())
    assert not {"--signing-key-days", "--session-managers"} & set(plain)


@pytest.mark.parametrize("arguments", [("--session-managers", "0"), ("--signing-key-days", "0.01")])
def test_what_cannot_be_is_refused_by_up(arguments: tuple[str, str]):
    done = CliRunner().invoke(cli, ["up", *arguments])
    assert done.exit_code == 2
    assert arguments[0] in done.output


def test_up_says_what_several_session_managers_need(tmp_path: Path):
    done = CliRunner().invoke(cli, ["--data-dir", str(tmp_path), "up", "--session-managers", "2"])
    assert done.exit_code == 1
    assert "POSTGRESQL_NEEDED" in done.output
    assert "--database" in done.output
    assert not (tmp_path / "up.json").exists()

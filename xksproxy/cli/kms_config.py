"""``xksproxy kms-config``: the parameters of a key store for AWS KMS."""

import re
import sys
from pathlib import Path
from typing import Final, Literal

import click

from xksproxy.cli.config_option import choose_keystore, config_option, keystore_option
from xksproxy.cli.output import print_document, print_error, print_line
from xksproxy.cli.pasted import ID
from xksproxy.cli.privilege import acting_as_owner
from xksproxy.config.certificate_checks import certified_names, covers
from xksproxy.config.credentials import read_credentials
from xksproxy.config.load import load_config
from xksproxy.config.model import Config, KeyStore
from xksproxy.config.secret import write_private_file
from xksproxy.keystore.kms_config import (
    KmsKeyStore,
    console_json,
    credential_json,
    host_of_endpoint,
    is_vpc_endpoint_service_name,
    terraform_variables,
    update_command,
)
from xksproxy.sigv4.keyring import Credential
from xksproxy.spec.pasted import host_in, unwrapped

_SERVICE_ARN: Final = re.compile(r"arn:[^:]*:ec2:(?P<region>[^:]*):[^:]*:vpc-endpoint-service/(?P<service>.*)")
_KEY_STORE_ID: Final = re.compile(r"cks-[0-9a-z]{1,60}")

Form = Literal["json", "aws-cli", "terraform"]


def _checked_endpoint(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and host_of_endpoint(value) is None:
        host = host_in(value).removesuffix(":443").lower()
        hint = f'; write "https://{host}"' if host_of_endpoint(f"https://{host}") else ""
        expected = "expected https:// and a domain name, without port or path: KMS always uses port 443"
        raise click.BadParameter(f"{value!r}: {expected}{hint}")
    return value


def _checked_service(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not is_vpc_endpoint_service_name(value):
        arn = _SERVICE_ARN.fullmatch(unwrapped(value))
        meant = f"com.amazonaws.vpce.{arn['region']}.{arn['service']}" if arn else unwrapped(value).lower()
        hint = f'; write "{meant}"' if is_vpc_endpoint_service_name(meant) else ""
        expected = "expected a name like com.amazonaws.vpce.eu-west-1.vpce-svc-0123456789abcdef0"
        raise click.BadParameter(f"{value!r}: {expected}{hint}")
    return value


def _checked_key_store_id(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not _KEY_STORE_ID.fullmatch(value):
        meant = unwrapped(value)
        hint = f'; write "{meant}"' if _KEY_STORE_ID.fullmatch(meant) else ", not a name or an ARN"
        expected = "expected the id of a custom key store, such as cks-1234567890abcdef0"
        raise click.BadParameter(f"{value!r}: {expected}{hint}; find it with: aws kms describe-custom-key-stores")
    return value


@click.command("kms-config")
@config_option
@keystore_option
@click.option("--endpoint", callback=_checked_endpoint, help="XksProxyUriEndpoint, as https://… Without a port.")
@click.option(
    "--as", "form", type=click.Choice(["json", "aws-cli", "terraform"]), default="json", show_default=True, help="Form."
)
@click.option("--credential", "access_key_id", metavar="ID", type=ID, help="The credential.  [default: the newest one]")
@click.option("--name", help="CustomKeyStoreName.  [default: the name of the key store here]")
@click.option("--vpc-endpoint-service-name", callback=_checked_service, help="For a VPC endpoint, not a public one.")
@click.option(
    "--update",
    metavar="ID",
    callback=_checked_key_store_id,
    help="With aws-cli: change the credential of this custom key store (cks-…).",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="A new file for the secret, mode 0600.")
@click.option("--show-secret", is_flag=True, help="Print the secret although it goes to a terminal.")
def kms_config(
    *,
    config_file: Path,
    keystore_name: str | None,
    endpoint: str | None,
    form: Form,
    access_key_id: str | None,
    name: str | None,
    vpc_endpoint_service_name: str | None,
    update: str | None,
    out: Path | None,
    show_secret: bool,
) -> None:
    """Print the parameters of a key store for AWS KMS. No other command outputs the secret.

    The form json is the file that the KMS console imports. It contains the secret, so it is written to --out or to a
    pipe, and to a terminal only with --show-secret. The forms aws-cli and terraform write the secret only to the file
    --out: the AWS CLI reads it as file://…, and Terraform with -var-file. They need --endpoint, except with --update:
    that changes only the credential, also while the key store is connected.

    \b
    Example:
      xksproxy kms-config --out kms-console.json
      xksproxy kms-config --endpoint https://xks.example.com --as aws-cli --out credential.json
      xksproxy kms-config --as aws-cli --update cks-1234567890abcdef0 --out credential.json
      xksproxy kms-config --endpoint https://xks.example.com --as terraform --out xks.tfvars.json
    """
    _require_valid_options(form, update, out)
    config = load_config(config_file)
    store = choose_keystore(config, keystore_name)
    with acting_as_owner(Path(store.credentials)):
        credential = _choose_credential(store, access_key_id)
    if endpoint is not None:
        _warn_of_other_names(config, endpoint)
    if form == "json":
        _write_secret(console_json(store.uri_path_prefix, credential), out, show_secret=show_secret)
    elif update is not None and out is not None:
        _write_for_aws_cli(credential, out)
        print_document(update_command(update, str(out)))
    elif endpoint is None:
        raise click.UsageError("give --endpoint, the address of the proxy for KMS, such as https://xks.example.com")
    else:
        kms_key_store = KmsKeyStore(name or store.name, endpoint, store.uri_path_prefix, vpc_endpoint_service_name)
        _print_creation(kms_key_store, credential, form, out)


def _require_valid_options(form: Form, update: str | None, out: Path | None) -> None:
    if update is not None and form != "aws-cli":
        raise click.UsageError("--update needs --as aws-cli")
    if form == "aws-cli" and out is None:
        raise click.UsageError("give --out, the file from which the AWS CLI will read the secret")
    if form == "terraform" and out is not None and out.suffix != ".json":
        raise click.UsageError("the name of --out must end in .json for Terraform, such as xks.tfvars.json")


def _choose_credential(store: KeyStore, access_key_id: str | None) -> Credential:
    stored = read_credentials(Path(store.credentials))
    if access_key_id is None:
        return max(stored, key=lambda item: item.created).credential
    for item in stored:
        if item.credential.access_key_id == access_key_id:
            return item.credential
    existing = ", ".join(item.credential.access_key_id for item in stored)
    raise click.UsageError(f"the key store {store.name} has no credential {access_key_id}; it has: {existing}")


def _warn_of_other_names(config: Config, endpoint: str) -> None:
    names, host = certified_names(config.server.tls), host_of_endpoint(endpoint) or ""
    if names and not covers(names, host):
        print_error(f"warning: the server certificate is for {', '.join(names)}, but KMS expects the name {host} in it")


def _write_secret(text: str, out: Path | None, *, show_secret: bool) -> None:
    if out is not None:
        write_private_file(out.absolute(), text)
        print_line(f"wrote {out}, mode 0600; it contains the secret, so delete it when KMS has the secret")
    elif sys.stdout.isatty() and not show_secret:
        raise click.UsageError("the output contains the secret: use --out FILE, or --show-secret to print it")
    else:
        print_document(text)


def _write_for_aws_cli(credential: Credential, out: Path) -> None:
    write_private_file(out.absolute(), credential_json(credential))
    print_line(f"# {out} contains the secret, mode 0600: delete it when KMS has the secret.")


def _print_creation(kms_key_store: KmsKeyStore, credential: Credential, form: Form, out: Path | None) -> None:
    if form == "aws-cli" and out is not None:
        _write_for_aws_cli(credential, out)
        print_line("# AWS CLI version 1 would fetch the endpoint as a URL. To prevent this, run first:")
        print_line("#   aws configure set cli_follow_urlparam false")
        print_document(kms_key_store.create_command(str(out)))
        return
    if out is not None:
        write_private_file(out.absolute(), terraform_variables(credential))
        print_line(f"# {out} contains the secret, mode 0600: terraform apply -var-file={out}")
    print_document(kms_key_store.terraform())

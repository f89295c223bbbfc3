"""Validates the manifests of kubernetes/ without a cluster: manifests.py FOLDER

Kubernetes' own kinds are validated by the schemas of kubernetes-validate. It has none for kustomize and KEDA: custom_kinds.json
has the fields of those that the manifests use, as KEDA's custom resource definitions and kustomize's documentation
describe them. A field that is not in it is an error, so it finds misspelled ones too. The pods of a ScaledJob are
validated as those of a Job. Prints each error.
"""

import json
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

JOB = {"apiVersion": "batch/v1", "kind": "Job"}


def containers(document):
    """The containers of a manifest, wherever its template of pods is."""
    if isinstance(document, dict):
        yield from document.get("containers") or []
        for value in document.values():
            yield from containers(value)
    elif isinstance(document, list):
        for value in document:
            yield from containers(value)


def references(document):
    """The ConfigMaps that a manifest needs."""
    for container in containers(document):
        for source in container.get("envFrom", []):
            if "configMapRef" in source:
                yield source["configMapRef"]["name"]


def errors(folder):
    schemas = json.loads((Path(__file__).parent / "custom_kinds.json").read_text())
    version = kubernetes_validate.latest_version()
    documents = {
        path: [one for one in yaml.safe_load_all(path.read_text()) if one]
        for path in sorted(folder.glob("*/*.yaml"))
    }
    for path, each in documents.items():
        for document in each:
            kind = document["kind"]
            if kind in schemas:
                validator = jsonschema.Draft7Validator({**schemas[kind], "definitions": schemas["definitions"]})
                for error in validator.iter_errors(document):
                    yield path, f"{error.json_path}: {error.message}"
            if kind == "ScaledJob":
                document = {**JOB, "metadata": document["metadata"], "spec": document["spec"]["jobTargetRef"]}
            elif kind in schemas:
                continue
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                # what follows is the schema
                yield path, str(error).splitlines()[0]
    yield from broken_links(folder, documents)


def broken_links(folder, documents):
    """References from one manifest to another that lead nowhere."""
    base = folder / "base"
    kustomization = documents[base / "kustomization.yaml"][0]
    everything = [(path, one) for path, each in documents.items() for one in each]
    in_base = [(path, one) for path, one in everything if path.parent == base and one["kind"] != "Kustomization"]
    files = {path.name for path, _ in in_base}
    if files != set(kustomization["resources"]):
        yield base, f"the resources are not the files {sorted(files)}"
    used = {container["image"] for _, one in in_base for container in containers(one)}
    renamed = {image["name"] for image in kustomization["images"]}
    if used != renamed:
        yield base, f"the images {sorted(renamed)} are not those of the containers {sorted(used)}"
    maps = {one["metadata"]["name"] for _, one in in_base if one["kind"] == "ConfigMap"}
    deployments = {one["metadata"]["name"] for _, one in in_base if one["kind"] == "Deployment"}
    for path, one in everything:
        for name in set(references(one)) - maps:
            yield path, f"no manifest has the ConfigMap `{name}`"
        if one["kind"] == "ScaledObject" and one["spec"]["scaleTargetRef"]["name"] not in deployments:
            yield path, "no manifest has the Deployment that it scales"


def main():
    count = 0
    for path, error in errors(Path(sys.argv[1])):
        print(f"{path}: {error}")
        count += 1
    sys.exit(1 if count else 0)


main()

"""Fields that name the people behind a container: name, unit, meaning, example of a condition."""

ROWS: tuple[tuple[str, str, str, str], ...] = (
    ("OwnerUser", "list", "users that the pod names: of a hub, of GitLab", "OwnerUser: ada"),
    ("OwnerServer", "list", "name of the hub user's server", "OwnerServer: gpu"),
    (
        "OwnerRepository",
        "list",
        "repositories of a BinderHub session, or of a GitHub runner",
        "OwnerRepository|startswith: 'https://github.com/a/'",
    ),
    ("OwnerRef", "list", "branch, tag or commit of OwnerRepository", "OwnerRef: main"),
    (
        "OwnerClient",
        "list",
        "address of the client that launched the pod by BinderHub",
        "OwnerClient|cidr: 192.0.2.0/24",
    ),
    (
        "OwnerLaunchHost",
        "list",
        "web site of the BinderHub that launched the pod",
        "OwnerLaunchHost: https://mybinder.org/",
    ),
    (
        "OwnerProject",
        "list",
        "project or organization of a CI job",
        "OwnerProject|startswith: 'group/'",
    ),
    ("OwnerJob", "list", "CI job, workflow or pipeline run", "OwnerJob|contains: nightly"),
    (
        "OwnerBuild",
        "list",
        "repositories that an image may be built from in the container",
        "OwnerBuild|contains: miner",
    ),
    (
        "OwnerController",
        "list",
        "the pod's controller, with its namespace",
        "OwnerController: Job ci/build",
    ),
    (
        "ContainerImageDigest",
        "",
        "digest of the container's image, as the runtime pulled it",
        "ContainerImageDigest: sha256:0123456789abcdef…",
    ),
)

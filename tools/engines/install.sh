#!/usr/bin/env bash
# Install the servers that are no wheels, once, for `make test-engines`: Debian's PostgreSQL 15 and
# Redis (as root, with apt), anvil (a package of npm), FerretDB and nats-server (built by Go) and
# Kafka (by Maven) into $NEOLAYER_ENGINES, by default a folder of the user's cache. What is there
# already is left alone.
set -euo pipefail

cache="${NEOLAYER_ENGINES:-${XDG_CACHE_HOME:-$HOME/.cache}/neolayer-engines}"
anvil_version=1.7.1
mkdir -p "$cache"

if [ ! -x /usr/lib/postgresql/15/bin/postgres ] || ! command -v redis-server >/dev/null; then
    if [ "$(id -u)" != 0 ]; then
        echo "error: PostgreSQL 15 and redis-server are missing; install them as root:" >&2
        echo "  apt-get install postgresql-15 redis-server" >&2
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # Their own services are not wanted: the tests start servers themselves.
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d
    mkdir -p /etc/postgresql-common
    grep -qs create_main_cluster /etc/postgresql-common/createcluster.conf ||
        echo "create_main_cluster = false" >>/etc/postgresql-common/createcluster.conf
    apt-get install -y -qq --no-install-recommends postgresql-15 redis-server >/dev/null
    rm -f /usr/sbin/policy-rc.d
fi

if [ ! -x "$cache/anvil" ]; then
    if ! command -v npm >/dev/null; then
        echo "error: npm is missing; it brings anvil" >&2
        exit 1
    fi
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    (cd "$work" && npm pack --silent "@foundry-rs/anvil-linux-amd64@$anvil_version" >/dev/null && tar xzf ./*.tgz)
    install -m 755 "$(find "$work" -type f -name anvil | head -n 1)" "$cache/anvil"
fi

# Programs in Go: each has a folder with its go.mod, and is built again when that folder changes.
for name in ferretdb; do
    source="$(dirname "$0")/go/$name"
    built="$cache/$name-$(cat "$source"/* | sha256sum | cut -c 1-12)"
    if [ ! -x "$built" ]; then
        if ! command -v go >/dev/null; then
            echo "error: go is missing; it builds $name" >&2
            exit 1
        fi
        (cd "$source" && go build -trimpath -o "$built.part" .)
        mv "$built.part" "$built"
    fi
    ln -sfn "$(basename "$built")" "$cache/$name"
done
here="$(cd "$(dirname "$0")" && pwd)"
bash "$here/opensearch.sh" "$cache"

here="$(cd "$(dirname "$0")" && pwd)"
bash "$here/nats.sh" "$cache"
bash "$here/kafka.sh" "$cache"

/usr/lib/postgresql/15/bin/postgres --version
redis-server --version
"$cache/anvil" --version | head -n 1
readlink "$cache/ferretdb"

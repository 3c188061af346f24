#!/usr/bin/env bash
# nats-server, built from the Go module whose go.mod and go.sum lie beside this, into the cache.
set -euo pipefail

cache=$1
source="$(cd "$(dirname "$0")" && pwd)/go/nats"
built="$cache/nats-server-$(cat "$source"/go.* | sha256sum | cut -c 1-12)"
if [ ! -x "$built" ]; then
    if ! command -v go >/dev/null; then
        echo "error: go is missing; it builds nats-server" >&2
        exit 1
    fi
    (cd "$source" && go build -trimpath -o "$built.part" github.com/nats-io/nats-server/v2)
    mv "$built.part" "$built"
fi
ln -sfn "$(basename "$built")" "$cache/nats-server"
"$cache/nats-server" --version

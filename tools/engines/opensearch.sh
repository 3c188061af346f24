#!/usr/bin/env bash
# OpenSearch's own jars, by Maven, and a main class that starts them as one node, into the cache.
set -euo pipefail

cache=$1
source="$(cd "$(dirname "$0")" && pwd)/maven/opensearch"
jars="$cache/opensearch-$(cat "$source"/* | sha256sum | cut -c 1-12)"
if [ ! -d "$jars" ]; then
    if ! command -v mvn >/dev/null || ! command -v javac >/dev/null; then
        echo "error: mvn and javac are missing; they bring OpenSearch and start it" >&2
        exit 1
    fi
    rm -rf "$jars.part"
    mvn -q -B -f "$source/pom.xml" dependency:copy-dependencies \
        -DoutputDirectory="$jars.part" -DincludeScope=runtime
    javac -nowarn -cp "$jars.part/*" -d "$jars.part" "$source/SingleNode.java"
    mv "$jars.part" "$jars"
fi
ln -sfn "$(basename "$jars")" "$cache/opensearch"
find "$cache/opensearch/" -name 'opensearch-[0-9]*.jar' -printf '%f\n' | grep . || { echo "error: $jars has no server" >&2; exit 1; }

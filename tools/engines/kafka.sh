#!/usr/bin/env bash
# Kafka's own jars, which are a broker and controller in one process (KRaft), by Maven, into the cache.
set -euo pipefail

cache=$1
source="$(cd "$(dirname "$0")" && pwd)/maven/kafka/pom.xml"
jars="$cache/kafka-$(sha256sum <"$source" | cut -c 1-12)"
if [ ! -d "$jars" ]; then
    if ! command -v mvn >/dev/null || ! command -v java >/dev/null; then
        echo "error: mvn and java are missing; they bring Kafka and run it" >&2
        exit 1
    fi
    rm -rf "$jars.part"
    mvn -q -B -f "$source" dependency:copy-dependencies \
        -DoutputDirectory="$jars.part" -DincludeScope=runtime
    mv "$jars.part" "$jars"
fi
ln -sfn "$(basename "$jars")" "$cache/kafka"
ls "$cache/kafka" | grep '^kafka_' || { echo "error: $jars has no broker" >&2; exit 1; }

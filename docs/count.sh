#!/usr/bin/env bash
# Counts to thirty, a second each: something to start, watch and stop.
for number in $(seq 1 30); do
    echo "$number"
    sleep 1
done
echo done

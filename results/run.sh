#!/bin/sh
# One run of a data set (orl, faces3d) with a seed, in a clone of the last commit; its metrics and params are kept here:
#     sh results/run.sh faces3d 0
# An interrupted run goes on. build/<data>-<seed> holds all else, its report for one; remove it to begin anew.
set -e
data=$1 seed=$2
clone=build/$data-$seed kept=$PWD/results/$data/seed-$seed
if [ ! -e "$clone/ready" ]; then
    rm -rf "$clone"
    git clone --quiet . "$clone"
    if [ "$data" = faces3d ]; then
        uld faces3d "$clone/data/raw/faces3d" --count 1000
        (cd "$clone" && uld preset faces3d --write)
    fi
    sed "s/^seed:.*/seed: $seed/" "$clone/params.yaml" > "$clone/seeded.yaml"
    mv "$clone/seeded.yaml" "$clone/params.yaml"
    touch "$clone/ready"
fi
cd "$clone"
dvc repro
rm -rf "$kept"
mkdir -p "$kept"
cp -r metrics/. params.yaml "$kept"

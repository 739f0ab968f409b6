#!/bin/bash -eu
# Builds every fuzz target for OSS-Fuzz: $CXX, $CXXFLAGS, $LIB_FUZZING_ENGINE, $OUT and $WORK are its own
# (https://google.github.io/oss-fuzz/getting-started/new-project-guide/#buildsh).
cd "$(dirname "$0")"
[ -f meson.build ] || cd "$SRC/postern"
build=$WORK/postern
rm -rf "$build"
meson setup "$build" -Dfuzz=true -Dfuzz-engine="$LIB_FUZZING_ENGINE" -Db_lundef=false \
  "-Dcpp_args=$CXXFLAGS -fno-sanitize=vptr" "-Dcpp_link_args=$CXXFLAGS"
for source in fuzz/*_fuzz.cc; do
  name=${source##*/}
  name=${name%_fuzz.cc}
  ninja -C "$build" "fuzz/fuzz_$name"
  cp "$build/fuzz/fuzz_$name" "$OUT/$name"
  zip -q -j "$OUT/${name}_seed_corpus.zip" fuzz/corpus/"$name"/*
  [ ! -f "fuzz/dictionaries/$name.dict" ] || cp "fuzz/dictionaries/$name.dict" "$OUT/"
done

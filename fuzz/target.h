// What every fuzz target defines: libFuzzer's entry point, called by the fuzzer or replay_main.cc.
#pragma once

#include <cstddef>
#include <cstdint>

// Returns 0. A broken property ends the process with a signal.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

// Runs a fuzz target over every file of its corpus, with any compiler: what a fuzzer once found is
// a test from then on. Usage: replay_TARGET DIRECTORY… ; fails where a directory has no files.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "fuzz/target.h"

int main(int argc, char** argv) {
  std::size_t total = 0;
  for (int i = 1; i < argc; ++i) {
    std::size_t files = 0;
    for (const auto& entry : std::filesystem::directory_iterator(argv[i])) {
      if (!entry.is_regular_file()) {
        continue;
      }
      std::ifstream in(entry.path(), std::ios::binary);
      const std::string bytes{std::istreambuf_iterator<char>(in), {}};
      // Flushed before the run: the last name printed is the one that crashed.
      std::printf("%s\n", entry.path().filename().c_str());
      std::fflush(stdout);
      // SAFETY: a string's bytes, as bytes.
      LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
      ++files;
    }
    if (files == 0) {
      std::fprintf(stderr, "%s holds no corpus\n", argv[i]);
      return 1;
    }
    total += files;
  }
  std::printf("%zu inputs\n", total);
  return total == 0 ? 1 : 0;
}

// What --nv and --rocm bring from the host.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace postern::plan {

struct GpuFiles {
  std::vector<std::string> libraries;  // bound into /.singularity.d/libs
  std::vector<std::string> binaries;   // bound into /usr/bin
  std::vector<std::string> files;      // bound at their own paths
  std::vector<std::string> warnings;
};

// Libraries are looked up in the loader's cache (ldconfig -p). A host without any gives a warning,
// never an error: one command line works on nodes with and without devices.
GpuFiles find_gpu_files(bool nvidia, bool amd);

// Device nodes that exist on this host.
std::vector<std::string> gpu_devices(bool nvidia, bool amd);

// Paths in the output of `ldconfig -p` whose library is `name`.so…, for the word of the machine
// ("x86-64"; empty for architectures that ldconfig marks with none).
std::vector<std::string> libraries_in_cache(std::string_view cache,
                                            std::string_view name,
                                            std::string_view machine);

}  // namespace postern::plan

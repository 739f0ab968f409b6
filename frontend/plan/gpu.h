// What --nv, --rocm and --intel-hpu bring from the host.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "frontend/plan/action.h"

namespace postern::plan {

struct GpuWish {
  bool nvidia = false;
  bool amd = false;
  bool intel_hpu = false;
  bool libraries32 = false;  // --compat32: those of 32-bit programs too

  [[nodiscard]] bool any_libraries() const noexcept { return nvidia || amd; }
};

GpuWish gpu_wish(const Action& action);

// A library of the host and its name in /.singularity.d/libs.
struct HostLibrary {
  std::string path;
  std::string name;
};

struct GpuFiles {
  std::vector<HostLibrary> libraries;    // bound into /.singularity.d/libs
  std::vector<HostLibrary> libraries32;  // bound into /.singularity.d/libs32
  std::vector<std::string> binaries;     // bound into /usr/bin
  std::vector<std::string> files;        // bound at their own paths
  std::vector<std::string> warnings;
};

// Libraries are looked up in the loader's cache (ldconfig -p); which programs can load one is read
// from the library itself. A host without any gives a warning, never an error: one command line
// works on nodes with and without devices. `lists` is the directory of the site's nvliblist.conf
// and rocmliblist.conf, which take the place of our own lists if they exist.
GpuFiles find_gpu_files(const GpuWish& wish, const std::string& lists);

// Device nodes that exist on this host.
std::vector<std::string> gpu_devices(const GpuWish& wish);

// Paths in the output of `ldconfig -p` whose library is `name`.so…
std::vector<std::string> libraries_in_cache(std::string_view cache, std::string_view name);

// Whether programs of this machine's own kind load the library, by class and machine of the file.
enum class LibraryKind { kOwn, k32Bit, kOther };

LibraryKind kind_of_library(unsigned bits, unsigned machine) noexcept;

// The lines of nvliblist.conf: names ending in .so are libraries, absolute paths are files, the
// rest are programs.
struct GpuList {
  std::vector<std::string> libraries;  // without .so
  std::vector<std::string> binaries;
  std::vector<std::string> files;
};

GpuList parse_gpu_list(std::string_view text);

}  // namespace postern::plan

#include "frontend/plan/gpu.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <optional>
#include <span>

#include <elf.h>
#include <glob.h>
#include <unistd.h>

#include "frontend/system/elf.h"
#include "frontend/system/read_file.h"
#include "frontend/system/spawn.h"
#include "policy/text/split.h"
#include "protocol/limits.h"

namespace postern::plan {
namespace {

// The parts of NVIDIA's driver that programs load: the driver's README, "Installed Components".
constexpr std::array<std::string_view, 44> kNvidiaLibraries = {"libcuda",
                                                               "libcudadebugger",
                                                               "libEGL_nvidia",
                                                               "libGLESv1_CM_nvidia",
                                                               "libGLESv2_nvidia",
                                                               "libGLX_nvidia",
                                                               "libnvcuvid",
                                                               "libnvidia-allocator",
                                                               "libnvidia-api",
                                                               "libnvidia-cfg",
                                                               "libnvidia-compiler",
                                                               "libnvidia-container",
                                                               "libnvidia-egl-gbm",
                                                               "libnvidia-egl-wayland",
                                                               "libnvidia-eglcore",
                                                               "libnvidia-encode",
                                                               "libnvidia-fatbinaryloader",
                                                               "libnvidia-fbc",
                                                               "libnvidia-glcore",
                                                               "libnvidia-glsi",
                                                               "libnvidia-glvkspirv",
                                                               "libnvidia-gpucomp",
                                                               "libnvidia-gtk2",
                                                               "libnvidia-gtk3",
                                                               "libnvidia-ifr",
                                                               "libnvidia-ml",
                                                               "libnvidia-ngx",
                                                               "libnvidia-nscq",
                                                               "libnvidia-nvvm",
                                                               "libnvidia-nvvm70",
                                                               "libnvidia-opencl",
                                                               "libnvidia-opticalflow",
                                                               "libnvidia-pkcs11",
                                                               "libnvidia-pkcs11-openssl3",
                                                               "libnvidia-ptxjitcompiler",
                                                               "libnvidia-rtcore",
                                                               "libnvidia-sandboxutils",
                                                               "libnvidia-tls",
                                                               "libnvidia-vksc-core",
                                                               "libnvidia-wayland-client",
                                                               "libnvoptix",
                                                               "libOpenCL",
                                                               "libvdpau_nvidia",
                                                               "nvidia_drv"};
constexpr std::array<std::string_view, 5> kNvidiaBinaries = {
    "nvidia-smi", "nvidia-debugdump", "nvidia-persistenced", "nvidia-cuda-mps-control",
    "nvidia-cuda-mps-server"};
constexpr std::array<const char*, 4> kNvidiaFiles = {
    "/run/nvidia-persistenced/socket", "/usr/share/glvnd/egl_vendor.d/10_nvidia.json",
    "/usr/share/vulkan/icd.d/nvidia_icd.json", "/etc/OpenCL/vendors/nvidia.icd"};
constexpr std::array<const char*, 2> kNvidiaDevices = {"/dev/nvidia*", "/dev/nvidia-caps/*"};

// ROCm's run time: HIP, HSA, OpenCL and their libraries.
constexpr std::array<std::string_view, 18> kAmdLibraries = {
    "libamd_comgr", "libamdhip64",  "libamdocl64",      "libcltrace", "libhipblas",
    "libhipfft",    "libhipsparse", "libhsa-runtime64", "libhsakmt",  "libMIOpen",
    "libOpenCL",    "librccl",      "librocblas",       "librocfft",  "librocrand",
    "librocsolver", "librocsparse", "libdrm_amdgpu"};
constexpr std::array<std::string_view, 2> kAmdBinaries = {"rocm-smi", "rocminfo"};
constexpr std::array<const char*, 1> kAmdFiles = {"/etc/OpenCL/vendors/amdocl64.icd"};
constexpr std::array<const char*, 2> kAmdDevices = {"/dev/kfd", "/dev/dri/*"};

// Gaudi: https://docs.habana.ai, "Docker Installation"; the numbers of HABANA_VISIBLE_DEVICES are
// those of the nodes.
constexpr std::array<const char*, 2> kHpuDevices = {"/dev/accel/accel",
                                                    "/dev/accel/accel_controlD"};

std::string loader_cache() {
  for (const char* program : {"/sbin/ldconfig", "/usr/sbin/ldconfig"}) {
    // Without LANG, which would translate the words.
    const auto finished = system::run_and_read({.program = program,
                                                .words = {"ldconfig", "-p"},
                                                .environment = std::vector<std::string>{}},
                                               kMaxFileBytes);
    if (finished && finished->status == 0) {
      return finished->output;
    }
  }
  return {};
}

std::string base_name(const std::string& path) {
  return path.substr(path.rfind('/') + 1);
}

// The loader's own order: the first one of a name wins.
void add_library(std::string path, std::vector<HostLibrary>& out) {
  std::string name = base_name(path);
  const bool present = std::any_of(out.begin(), out.end(),
                                   [&](const HostLibrary& other) { return other.name == name; });
  if (!present) {
    out.push_back({.path = std::move(path), .name = std::move(name)});
  }
}

void add_libraries(std::string_view cache,
                   const std::vector<std::string>& names,
                   bool libraries32,
                   GpuFiles& out) {
  for (const std::string& name : names) {
    for (std::string& path : libraries_in_cache(cache, name)) {
      const auto library = system::read_library(path);
      if (!library) {
        continue;
      }
      switch (kind_of_library(library->bits, library->machine)) {
        case LibraryKind::kOwn:
          add_library(std::move(path), out.libraries);
          break;
        case LibraryKind::k32Bit:
          if (libraries32) {
            add_library(std::move(path), out.libraries32);
          }
          break;
        case LibraryKind::kOther:
          break;
      }
    }
  }
}

void add_binaries(const std::vector<std::string>& names, std::vector<std::string>& out) {
  static constexpr std::array<std::string_view, 4> kDirectories = {"/usr/bin/", "/usr/local/bin/",
                                                                   "/bin/", "/opt/rocm/bin/"};
  for (const std::string& name : names) {
    for (const std::string_view directory : kDirectories) {
      std::string path = std::string(directory) + name;
      if (::access(path.c_str(), X_OK) == 0) {
        out.push_back(std::move(path));
        break;
      }
    }
  }
}

template <class Patterns>
void add_existing(const Patterns& patterns, std::vector<std::string>& out) {
  for (const auto& pattern : patterns) {
    glob_t matches = {};
    if (::glob(std::string(pattern).c_str(), 0, nullptr, &matches) == 0) {
      out.insert(out.end(), matches.gl_pathv, matches.gl_pathv + matches.gl_pathc);
    }
    ::globfree(&matches);
  }
}

template <class Names>
std::vector<std::string> texts(const Names& names) {
  return {names.begin(), names.end()};
}

// The site's list, or ours.
GpuList list_of(const std::string& path, GpuList ours) {
  if (path.front() != '/' || ::access(path.c_str(), R_OK) != 0) {
    return ours;
  }
  const auto text = system::read_small_file(path);
  return text ? parse_gpu_list(*text) : ours;
}

void add_files(const GpuList& list,
               std::string_view cache,
               const char* option,
               bool libraries32,
               GpuFiles& out) {
  const std::size_t before = out.libraries.size();
  add_libraries(cache, list.libraries, libraries32, out);
  // The loader of OpenCL is on many hosts that have no device.
  const bool any = std::any_of(
      out.libraries.begin() + static_cast<std::ptrdiff_t>(before), out.libraries.end(),
      [](const HostLibrary& library) { return !library.name.starts_with("libOpenCL.so"); });
  if (!any) {
    out.warnings.push_back(std::string(option) +
                           ": this host has no such driver libraries (see ldconfig -p)");
  }
  add_binaries(list.binaries, out.binaries);
  add_existing(list.files, out.files);
}

// HABANA_VISIBLE_DEVICES: "all" (as if it were not set), or numbers separated by commas; anything
// else matches no node.
std::vector<std::string> hpu_devices() {
  const char* chosen = std::getenv("HABANA_VISIBLE_DEVICES");  // NOLINT(concurrency-mt-unsafe)
  const std::string_view words = chosen != nullptr ? chosen : "all";
  std::vector<std::string> nodes;
  std::vector<std::string> patterns;
  for (std::size_t begin = 0; begin <= words.size();) {
    const std::size_t end = std::min(words.find(',', begin), words.size());
    const std::string_view word = words.substr(begin, end - begin);
    begin = end + 1;
    const bool all = word == "all" || word == "ALL";
    if (!all && (word.empty() || word.find_first_not_of("0123456789") != word.npos)) {
      continue;
    }
    for (const char* device : kHpuDevices) {
      patterns.push_back(device + (all ? "[0-9]*" : std::string(word)));
    }
  }
  add_existing(patterns, nodes);
  return nodes;
}

}  // namespace

GpuWish gpu_wish(const Action& action) {
  return {.nvidia = action.nv,
          .amd = action.rocm,
          .intel_hpu = action.intel_hpu,
          .libraries32 = action.compat32};
}

LibraryKind kind_of_library(unsigned bits, unsigned machine) noexcept {
#if defined(__x86_64__)
  constexpr unsigned kOwn = EM_X86_64;
  constexpr unsigned kSmall = EM_386;
#elif defined(__aarch64__)
  constexpr unsigned kOwn = EM_AARCH64;
  constexpr unsigned kSmall = EM_ARM;
#else
  // Machines with one kind of libraries only.
  const unsigned kOwn = machine;
  constexpr unsigned kSmall = EM_NONE;
#endif
  // A 32-bit library of the 64-bit machine is one of x32, which neither kind of program loads.
  if (bits == sizeof(void*) * CHAR_BIT && machine == kOwn) {
    return LibraryKind::kOwn;
  }
  return bits == 32 && machine == kSmall ? LibraryKind::k32Bit : LibraryKind::kOther;
}

GpuList parse_gpu_list(std::string_view text) {
  GpuList list;
  while (!text.empty()) {
    std::string_view line = text::next_line(text);
    line = line.substr(0, line.find('#'));
    line.remove_prefix(std::min(line.find_first_not_of(" \t\r"), line.size()));
    line = line.substr(0, line.find_last_not_of(" \t\r") + 1);
    if (line.empty()) {
      continue;
    }
    if (line.front() == '/') {
      list.files.emplace_back(line);
    } else if (line.ends_with(".so")) {
      list.libraries.emplace_back(line.substr(0, line.size() - 3));
    } else if (line.find('/') == line.npos) {
      list.binaries.emplace_back(line);
    }
  }
  return list;
}

std::vector<std::string> libraries_in_cache(std::string_view cache, std::string_view name) {
  // "\tlibcuda.so.1 (libc6,x86-64) => /usr/lib/x86_64-linux-gnu/libcuda.so.1"
  std::vector<std::string> paths;
  while (!cache.empty()) {
    std::string_view line = text::next_line(cache);
    line.remove_prefix(std::min(line.find_first_not_of("\t "), line.size()));
    const auto arrow = line.find(" => ");
    const std::string_view library = line.substr(0, line.find(" ("));
    if (arrow != line.npos && library.starts_with(name) &&
        library.substr(name.size()).starts_with(".so")) {
      paths.emplace_back(line.substr(arrow + 4));
    }
  }
  return paths;
}

GpuFiles find_gpu_files(const GpuWish& wish, const std::string& lists) {
  GpuFiles found;
  if (wish.intel_hpu && hpu_devices().empty()) {
    found.warnings.emplace_back(
        "--intel-hpu: this host has no such device (/dev/accel, HABANA_VISIBLE_DEVICES)");
  }
  if (!wish.any_libraries()) {
    if (wish.libraries32) {
      found.warnings.emplace_back("--compat32 has no effect without --nv or --rocm");
    }
    return found;
  }
  const std::string cache = loader_cache();
  if (wish.nvidia) {
    const GpuList list =
        list_of(lists + "/nvliblist.conf",
                {texts(kNvidiaLibraries), texts(kNvidiaBinaries), texts(kNvidiaFiles)});
    add_files(list, cache, "--nv", wish.libraries32, found);
  }
  if (wish.amd) {
    const GpuList list = list_of(lists + "/rocmliblist.conf",
                                 {texts(kAmdLibraries), texts(kAmdBinaries), texts(kAmdFiles)});
    add_files(list, cache, "--rocm", wish.libraries32, found);
  }
  return found;
}

std::vector<std::string> gpu_devices(const GpuWish& wish) {
  std::vector<std::string> nodes;
  if (wish.nvidia) {
    add_existing(kNvidiaDevices, nodes);
  }
  if (wish.amd) {
    add_existing(kAmdDevices, nodes);
  }
  if (wish.intel_hpu) {
    const std::vector<std::string> more = hpu_devices();
    nodes.insert(nodes.end(), more.begin(), more.end());
  }
  return nodes;
}

}  // namespace postern::plan

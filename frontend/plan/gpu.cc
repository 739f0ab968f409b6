#include "frontend/plan/gpu.h"

#include <algorithm>
#include <array>
#include <cerrno>

#include <fcntl.h>
#include <glob.h>
#include <unistd.h>

#include "frontend/system/spawn.h"
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

#if defined(__x86_64__)
constexpr std::string_view kMachine = "x86-64";
#elif defined(__aarch64__)
constexpr std::string_view kMachine = "AArch64";
#else
constexpr std::string_view kMachine = "";
#endif

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

template <std::size_t N>
void add_libraries(std::string_view cache,
                   const std::array<std::string_view, N>& names,
                   std::vector<std::string>& out) {
  for (const std::string_view name : names) {
    for (std::string& path : libraries_in_cache(cache, name, kMachine)) {
      const auto base = [](const std::string& one) { return one.substr(one.rfind('/')); };
      const bool present = std::any_of(out.begin(), out.end(), [&](const std::string& other) {
        return base(other) == base(path);  // the loader's own order: the first one wins
      });
      if (!present) {
        out.push_back(std::move(path));
      }
    }
  }
}

template <std::size_t N>
void add_binaries(const std::array<std::string_view, N>& names, std::vector<std::string>& out) {
  static constexpr std::array<std::string_view, 4> kDirectories = {"/usr/bin/", "/usr/local/bin/",
                                                                   "/bin/", "/opt/rocm/bin/"};
  for (const std::string_view name : names) {
    for (const std::string_view directory : kDirectories) {
      std::string path = std::string(directory) + std::string(name);
      if (::access(path.c_str(), X_OK) == 0) {
        out.push_back(std::move(path));
        break;
      }
    }
  }
}

template <std::size_t N>
void add_existing(const std::array<const char*, N>& patterns, std::vector<std::string>& out) {
  for (const char* pattern : patterns) {
    glob_t matches = {};
    if (::glob(pattern, 0, nullptr, &matches) == 0) {
      out.insert(out.end(), matches.gl_pathv, matches.gl_pathv + matches.gl_pathc);
    }
    ::globfree(&matches);
  }
}

}  // namespace

std::vector<std::string> libraries_in_cache(std::string_view cache,
                                            std::string_view name,
                                            std::string_view machine) {
  // "\tlibcuda.so.1 (libc6,x86-64) => /usr/lib/x86_64-linux-gnu/libcuda.so.1"
  std::vector<std::string> paths;
  while (!cache.empty()) {
    const auto end = cache.find('\n');
    std::string_view line = cache.substr(0, end);
    cache = end == cache.npos ? std::string_view{} : cache.substr(end + 1);
    line.remove_prefix(std::min(line.find_first_not_of("\t "), line.size()));
    const auto open = line.find(" (");
    const auto close = line.find(')');
    const auto arrow = line.find(" => ");
    if (open == line.npos || close == line.npos || arrow == line.npos || close < open) {
      continue;
    }
    const std::string_view library = line.substr(0, open);
    const std::string_view tags = line.substr(open, close - open);
    const bool right_machine = machine.empty()
                                   ? tags.find("64") != tags.npos || tags.find(',') == tags.npos
                                   : tags.find(machine) != tags.npos;
    if (right_machine && library.starts_with(name) &&
        library.substr(name.size()).starts_with(".so")) {
      paths.emplace_back(line.substr(arrow + 4));
    }
  }
  return paths;
}

GpuFiles find_gpu_files(bool nvidia, bool amd) {
  GpuFiles found;
  if (!nvidia && !amd) {
    return found;
  }
  const std::string cache = loader_cache();
  const auto warn_if_none = [&found](const char* option, std::size_t before) {
    // The loader of OpenCL is on many hosts that have no device.
    const bool any = std::any_of(
        found.libraries.begin() + static_cast<std::ptrdiff_t>(before), found.libraries.end(),
        [](const std::string& path) { return path.find("/libOpenCL.so") == std::string::npos; });
    if (!any) {
      found.warnings.push_back(std::string(option) +
                               ": this host has no such driver libraries (see ldconfig -p)");
    }
  };
  if (nvidia) {
    add_libraries(cache, kNvidiaLibraries, found.libraries);
    warn_if_none("--nv", 0);
    add_binaries(kNvidiaBinaries, found.binaries);
    add_existing(kNvidiaFiles, found.files);
  }
  if (amd) {
    const std::size_t before = found.libraries.size();
    add_libraries(cache, kAmdLibraries, found.libraries);
    warn_if_none("--rocm", before);
    add_binaries(kAmdBinaries, found.binaries);
    add_existing(kAmdFiles, found.files);
  }
  return found;
}

std::vector<std::string> gpu_devices(bool nvidia, bool amd) {
  std::vector<std::string> nodes;
  if (nvidia) {
    add_existing(kNvidiaDevices, nodes);
  }
  if (amd) {
    add_existing(kAmdDevices, nodes);
  }
  return nodes;
}

}  // namespace postern::plan

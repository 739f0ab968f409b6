#include <array>
#include <cerrno>

#include <limits.h>
#include <unistd.h>

#include "policy/judge/signatures.h"

namespace postern::judge {

struct Signatures::State {};

Signatures::Signatures(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}

Signatures::Signatures(Signatures&&) noexcept = default;
Signatures& Signatures::operator=(Signatures&&) noexcept = default;
Signatures::~Signatures() = default;

// The program beside this one, wherever the helper found this one. Its descriptors are ours: those
// that we opened are close-on-exec, and the input is read with pread(2).
config::Trusted<Signatures> Signatures::prepare(const std::string& /*directory*/,
                                                const ecl::EclConfig& /*list*/,
                                                int /*image*/) {
  constexpr std::string_view kSuffix = "-keys";
  std::array<char, PATH_MAX> path{};
  const ssize_t length =
      ::readlink("/proc/self/exe", path.data(), path.size() - kSuffix.size() - 1);
  if (length > 0) {
    kSuffix.copy(path.data() + length, kSuffix.size());
    std::string name = "postern-judge-keys";
    std::array<char*, 2> argv = {name.data(), nullptr};
    std::array<char*, 1> environment = {nullptr};
    ::execve(path.data(), argv.data(), environment.data());
  }
  return config::ConfigFault{RefusalCode::kJudgeFailed,
                             system_problem("executing postern-judge-keys", errno)};
}

std::vector<int> Signatures::channels() const {
  return {};
}

void Signatures::look_at(int /*image*/,
                         const ecl::EclConfig& /*list*/,
                         const config::MountTable& /*mounts*/,
                         Facts& /*facts*/) const {}

}  // namespace postern::judge

// ecl.toml: whatever parses decides, and an active list without a matching group refuses.
#include <string_view>

#include "fuzz/target.h"
#include "policy/ecl/ecl.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace ecl = postern::ecl;
  const auto config = ecl::parse_ecl({reinterpret_cast<const char*>(data), size}, "ecl.toml");
  if (!config) {
    return config.error().what.starts_with("ecl.toml:") ? 0 : (__builtin_trap(), 0);
  }
  ecl::ImageFacts facts;
  for (const ecl::Group& group : config->groups) {
    if (group.keys.empty() && group.mode != ecl::Mode::kBlacklist) {
      __builtin_trap();
    }
    facts.directory = group.directory;
    // Nobody signed: only a blacklist can let it in, and then as nothing that the kernel may trust.
    const ecl::EclDecision decision = ecl::decide_ecl(*config, facts);
    const bool allowed = decision.decision == postern::Decision::kAllow;
    if (decision.trusted || (allowed && config->activated && group.mode != ecl::Mode::kBlacklist)) {
      __builtin_trap();
    }
  }
  facts.directory = "/no/such/group";
  facts.kind = ecl::ContainerKind::kDirectory;
  if ((ecl::decide_ecl(*config, facts).decision == postern::Decision::kAllow) ==
      config->activated) {
    __builtin_trap();
  }
  return 0;
}

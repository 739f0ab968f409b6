#include "frontend/plan/contained_calls.h"

#include <string>

#include <sys/ioctl.h>

#include "frontend/plan/seccomp_profile.h"

namespace postern::plan {
namespace {

// The kernel reads 32 bits of an ioctl's number, a filter is shown 64.
std::string ioctl_rule(unsigned long number) {
  return R"({"names": ["ioctl"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": [)"
         R"({"index": 1, "value": 4294967295, "valueTwo": )" +
         std::to_string(number) + R"(, "op": "SCMP_CMP_MASKED_EQ"}]})";
}

}  // namespace

Outcome<std::vector<std::uint8_t>> contained_calls_filter() {
  return compile_own_rules(R"({"names": ["add_key", "request_key", "keyctl"],)"
                           R"( "action": "SCMP_ACT_ERRNO", "errnoRet": 38},)" +
                           ioctl_rule(TIOCSTI) + ',' + ioctl_rule(TIOCLINUX));
}

}  // namespace postern::plan

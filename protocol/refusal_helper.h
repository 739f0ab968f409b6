// The refusals that the helper itself makes: the first numbers of RefusalCode (protocol/refusal.h,
// which compares them and says what each means). It passes on the judge's without looking at them.
#pragma once

#include <cstdint>

namespace postern {

// clang-format off
enum class HelperRefusal : std::uint16_t {
  kNotSetuid = 1, kRealRoot, kNoNewPrivs, kUserNamespace, kArguments = 6, kNoSocket,
  kJudgeUser = 9, kJudgeFailed, kLimit = 12, kCeiling,
};
// clang-format on

}  // namespace postern

// The refusals that the helper itself makes: those numbers of RefusalCode (protocol/refusal.h, which
// compares them) that a reader of helper/ needs. It passes on the judge's without looking at them.
#pragma once

#include <cstdint>

namespace postern {

enum class HelperRefusal : std::uint16_t {
  kNotSetuid = 1,
  kRealRoot = 2,
  kNoNewPrivs = 3,
  kUserNamespace = 4,
  kTraced = 5,
  kArguments = 6,
  kNoSocket = 7,
  kJudgeUser = 9,
  kJudgeFailed = 10,
  kDescriptorCount = 52,
  kImageDescriptor = 54,
  kMalformedVerdict = 55,
};

}  // namespace postern

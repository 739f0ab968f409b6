// The decoder of the request: first byte = number of descriptors, the rest = the request.
#include <algorithm>
#include <span>

#include "fuzz/target.h"
#include "policy/judge/verdict_from_request.h"
#include "protocol/launch_codec.h"

namespace {

void require(bool holds) {
  if (!holds) {
    __builtin_trap();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) {
    return 0;
  }
  const std::size_t descriptors = data[0];
  const auto bytes = std::as_bytes(std::span(data + 1, size - 1));
  const auto request = postern::decode(bytes, descriptors);
  if (!request) {
    require(request.error().code != postern::RefusalCode::kNone);
    return 0;
  }
  // One encoding for a request, and one verdict.
  const auto again = postern::encode(*request, descriptors);
  require(again.has_value() &&
          std::equal(again->begin(), again->end(), bytes.begin(), bytes.end()));
  static postern::Verdict verdict;
  const auto made = postern::judge::verdict_from_request(*request, descriptors, verdict);
  require(made.has_value());
  require(verdict.operation_count == request->mounts.size());
  return 0;
}

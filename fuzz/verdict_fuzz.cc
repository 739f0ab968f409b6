// The helper's check of a verdict: first byte = number of descriptors, second = whether for
// user-namespace mode, then a Verdict as it is sent.
#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>

#include "fuzz/target.h"
#include "protocol/verdict_check.h"

namespace {

void require(bool holds) {
  if (!holds) {
    __builtin_trap();
  }
}

// What the mount library relies on, said in other words than the check's.
void inspect(const postern::Plan& plan, std::size_t descriptors) {
  require(descriptors <= postern::kMaxDescriptors && plan->layers[0].descriptor == 0);
  require(plan->layer_count >= 1 && plan->layer_count <= plan->layers.size() &&
          plan->operation_count <= plan->operations.size());
  require(plan->scratch_bytes > 0 && plan->scratch_bytes <= postern::kMaxSessionBytes);
  std::size_t used = 2;  // init, record
  for (std::size_t i = 0; i < plan->operation_count; ++i) {
    const postern::OperationEntry& e = plan->operations[i];
    const std::string_view target(plan.text(e.target));
    require(target.size() > 1 && target.size() < postern::kMaxTargetBytes && target.front() == '/');
    require((std::string(target) + '/').find("/../") == std::string::npos);
    require(target.find("//") == std::string_view::npos && target.back() != '/');
    used += e.descriptor != postern::kNoDescriptor ? 1U : 0U;
    require(e.descriptor == postern::kNoDescriptor || e.descriptor < descriptors);
  }
  used += plan->layer_count;
  used += plan->crypt.data_bytes != 0 ? 1U : 0U;
  used += plan->upper_descriptor != postern::kNoDescriptor ? 1U : 0U;
  used += plan->net_descriptor != postern::kNoDescriptor ? 1U : 0U;
  require(used == descriptors);
  if (plan->verity.data_blocks != 0) {
    require(plan->verity.data_blocks <= plan->image_bytes / 4096 && plan->verity.salt_bytes <= 32);
  }
  if (plan->crypt.data_bytes != 0) {
    require(plan->crypt.data_offset + plan->crypt.data_bytes <= plan->image_bytes);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) {
    return 0;
  }
  static postern::Verdict verdict;
  std::memset(&verdict, 0, sizeof verdict);
  std::size_t at = 2;
  const auto take = [&](void* to, std::size_t bytes) {
    const std::size_t count = std::min(size - at, bytes);
    std::memcpy(to, data + at, count);
    at += count;
  };
  take(&verdict, offsetof(postern::Verdict, operations));
  take(verdict.operations.data(),
       std::min<std::size_t>(verdict.operation_count, postern::kMaxOperations) *
           sizeof(postern::OperationEntry));
  take(verdict.arena.data(), std::min<std::size_t>(verdict.arena_bytes, postern::kArenaBytes));
  const std::uint32_t allowed =
      data[1] % 2 != 0 ? postern::kNamespaces : postern::kNamespaces ^ CLONE_NEWUSER;
  const auto plan = postern::check_verdict(verdict, data[0], allowed);
  if (plan) {
    inspect(*plan, data[0]);
  } else {
    require(plan.error().err == EBADMSG && plan.error().op == postern::Op::kCheckVerdict);
  }
  return 0;
}

// The JSON that signatures sign, and DSSE envelopes: what is read is written back the same.
#include <string_view>

#include "fuzz/target.h"
#include "policy/signature/dsse.h"
#include "policy/signature/metadata.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto metadata = postern::signature::parse_metadata(text)) {
    const std::string written = postern::signature::write_metadata(*metadata);
    const auto again = postern::signature::parse_metadata(written);
    if (!again || postern::signature::write_metadata(*again) != written) {
      __builtin_trap();
    }
  }
  if (const auto envelope = postern::signature::parse_envelope(text)) {
    if (envelope->signatures.empty() ||
        envelope->signatures.size() > postern::signature::kMaxDsseSignatures ||
        !postern::signature::looks_like_dsse(text)) {
      __builtin_trap();
    }
  }
  return 0;
}

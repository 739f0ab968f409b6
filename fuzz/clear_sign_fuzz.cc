// Clear-signed messages and the signature packet in them.
#include <string_view>

#include "fuzz/target.h"
#include "policy/signature/clear_sign.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace signature = postern::signature;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto message = signature::parse_clear_signed(text);
  if (message) {
    // What is parsed and what is signed differ in line ends alone.
    std::string joined;
    for (const char c : message->signed_bytes) {
      if (c != '\r') {
        joined += c;
      }
    }
    if (joined != message->text || !signature::looks_clear_signed(text) ||
        message->packets.empty()) {
      __builtin_trap();
    }
    if (const auto packet = signature::parse_signature_packet(*message)) {
      if (packet->issuer.size() != 16 && packet->issuer.size() != 40) {
        __builtin_trap();
      }
    }
  }
  signature::ClearSigned bare;
  bare.packets.assign(data, data + size);
  (void)signature::parse_signature_packet(bare);
  return 0;
}

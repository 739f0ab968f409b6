#include "policy/ecl/claims.h"

#include <algorithm>

#include <unistd.h>

#include "policy/config/read_file.h"
#include "policy/text/hex.h"

namespace postern::ecl {

bool may_be_trusted(const sif::Image& image, const std::string& keyring) {
  const auto root = image.primary_partition();
  if (!root) {
    return false;
  }
  const auto table = config::read_file(keyring + "/pubring.table");
  const std::string keys = table && *table ? **table : std::string();
  const bool has_pem = ::access((keyring + "/pem").c_str(), F_OK) == 0;
  return std::any_of(
      image.descriptors().begin(), image.descriptors().end(), [&](const sif::Descriptor& object) {
        const sif::SignatureInfo* signature = object.signature();
        if (signature == nullptr || !object.link_is_group || object.link != (*root)->group) {
          return false;
        }
        const bool names_key =
            std::any_of(signature->fingerprint.begin(), signature->fingerprint.end(),
                        [](std::uint8_t byte) { return byte != 0; });
        // A line of policy/signature/pgp_table.h.
        return names_key ? keys.find("\nkey " + text::to_hex(signature->fingerprint) + " ") !=
                               std::string::npos
                         : has_pem;
      });
}

}  // namespace postern::ecl

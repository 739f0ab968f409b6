#include "policy/signature/dsse.h"

#include "policy/json/strict.h"
#include "policy/text/base64.h"

namespace postern::signature {
namespace {

using json::Value;

Problem malformed(std::string_view what) {
  return Problem{"DSSE envelope: " + std::string(what)};
}

Outcome<Envelope::Signature> parse_signature(const Value& entry) {
  const Value* bytes = entry.find("sig", Value::Kind::kString);
  if (bytes == nullptr) {
    return malformed("a signature without 'sig'");
  }
  auto decoded = text::decode_base64(bytes->text, /*url=*/true);
  if (!decoded) {
    return malformed("'sig' is not base64");
  }
  Envelope::Signature out;
  out.bytes = std::move(*decoded);
  if (const Value* id = entry.find("keyid"); id != nullptr && id->kind != Value::Kind::kNull) {
    if (id->kind != Value::Kind::kString) {
      return malformed("'keyid' is not a string");
    }
    out.key_id = id->text;
  }
  return out;
}

}  // namespace

bool looks_like_dsse(std::string_view data) {
  const std::size_t start = data.find_first_not_of(" \t\r\n");
  return start != std::string_view::npos && data[start] == '{';
}

Outcome<Envelope> parse_envelope(std::string_view data) {
  auto root = json::parse(data);
  if (!root) {
    return malformed(root.error().what);
  }
  const Value* type = root->find("payloadType", Value::Kind::kString);
  if (type == nullptr || type->text != kDssePayloadType) {
    return malformed("another payload type than " + std::string(kDssePayloadType));
  }
  const Value* payload = root->find("payload", Value::Kind::kString);
  auto decoded =
      payload != nullptr ? text::decode_base64(payload->text, /*url=*/true) : std::nullopt;
  if (!decoded) {
    return malformed("'payload' is missing or not base64");
  }
  Envelope out;
  out.payload.assign(decoded->begin(), decoded->end());
  const Value* list = root->find("signatures", Value::Kind::kArray);
  if (list == nullptr || list->items.empty() || list->items.size() > kMaxDsseSignatures) {
    return malformed("no signatures, or more than " + std::to_string(kMaxDsseSignatures));
  }
  for (const Value& entry : list->items) {
    POSTERN_TRY_ASSIGN(Envelope::Signature signature, parse_signature(entry));
    out.signatures.push_back(std::move(signature));
  }
  return out;
}

const PublicKey* find_signer(const Envelope& envelope, const std::vector<PublicKey>& keys) {
  const std::string message = pre_authentication_encoding(kDssePayloadType, envelope.payload);
  for (const Envelope::Signature& signature : envelope.signatures) {
    for (const PublicKey& key : keys) {
      if ((signature.key_id.empty() || signature.key_id == key.ssh_id()) &&
          key.verify(message, signature.bytes)) {
        return &key;
      }
    }
  }
  return nullptr;
}

std::string pre_authentication_encoding(std::string_view type, std::string_view payload) {
  std::string out = "DSSEv1 ";
  out += std::to_string(type.size()) + " ";
  out += type;
  out += " " + std::to_string(payload.size()) + " ";
  out += payload;
  return out;
}

Outcome<std::string> sign_envelope(std::string_view payload, const PrivateKey& key) {
  POSTERN_TRY_ASSIGN(const std::vector<std::uint8_t> signature,
                     key.sign(pre_authentication_encoding(kDssePayloadType, payload)));
  // SAFETY: char and unsigned char have the same representation.
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(payload.data());
  return std::string(R"({"payloadType":")") + std::string(kDssePayloadType) + R"(","payload":")" +
         text::encode_base64(std::span(bytes, payload.size())) + R"(","signatures":[{"keyid":")" +
         key.public_key().ssh_id() + R"(","sig":")" + text::encode_base64(signature) + "\"}]}";
}

}  // namespace postern::signature

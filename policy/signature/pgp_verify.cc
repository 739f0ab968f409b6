#include "policy/signature/pgp_verify.h"

#include <algorithm>
#include <array>
#include <memory>

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/rsa.h>

#include "policy/signature/owned.h"

namespace postern::signature {
namespace {

using OwnedKey = Owned<EVP_PKEY, EVP_PKEY_free>;
using OwnedKeyContext = Owned<EVP_PKEY_CTX, EVP_PKEY_CTX_free>;
using OwnedNumber = Owned<BIGNUM, BN_free>;

// RFC 4880 §9.1, RFC 6637, draft-koch-eddsa.
enum class KeyAlgorithm : std::uint8_t { kRsa = 1, kRsaSign = 3, kEcdsa = 19, kEddsa = 22 };

Problem bad_signature() {
  ERR_clear_error();
  return Problem{"the signature does not match the text"};
}

Problem unsupported(std::string what) {
  ERR_clear_error();
  return Problem{std::move(what),
                 "sign with an RSA, ECDSA (NIST or Brainpool curve) or Ed25519 key"};
}

struct Curve {
  std::array<std::uint8_t, 10> oid;  // DER, without tag and length
  std::size_t oid_bytes;
  const char* name;
  std::size_t bits;
};

constexpr std::array kCurves = std::to_array<Curve>({
    {{0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}, 8, "P-256", 256},
    {{0x2b, 0x81, 0x04, 0x00, 0x22}, 5, "P-384", 384},
    {{0x2b, 0x81, 0x04, 0x00, 0x23}, 5, "P-521", 521},
    {{0x2b, 0x24, 0x03, 0x03, 0x02, 0x08, 0x01, 0x01, 0x07}, 9, "brainpoolP256r1", 256},
    {{0x2b, 0x24, 0x03, 0x03, 0x02, 0x08, 0x01, 0x01, 0x0b}, 9, "brainpoolP384r1", 384},
    {{0x2b, 0x24, 0x03, 0x03, 0x02, 0x08, 0x01, 0x01, 0x0d}, 9, "brainpoolP512r1", 512},
});
constexpr std::array<std::uint8_t, 9> kEd25519Oid = {0x2b, 0x06, 0x01, 0x04, 0x01,
                                                     0xda, 0x47, 0x0f, 0x01};
constexpr std::size_t kEd25519Bytes = 32;

// RFC 6637 §9: a length and the identifier's bytes.
Outcome<PacketBytes> take_oid(PacketBytes& numbers) {
  if (numbers.empty() || numbers[0] == 0 || numbers[0] > numbers.size() - 1) {
    return unsupported("a key on an unknown curve");
  }
  const PacketBytes oid = numbers.subspan(1, numbers[0]);
  numbers = numbers.subspan(1 + oid.size());
  return oid;
}

const Curve* find_curve(PacketBytes oid) {
  for (const Curve& curve : kCurves) {
    if (std::equal(oid.begin(), oid.end(), curve.oid.begin(),
                   curve.oid.begin() + static_cast<std::ptrdiff_t>(curve.oid_bytes))) {
      return &curve;
    }
  }
  return nullptr;
}

struct Hash {
  const EVP_MD* (*md)();
  std::size_t bytes;
};

// SHA-1 is here for the bindings of old keys alone: what signs an image is in strong_hash().
std::optional<Hash> hash_of(std::uint8_t number) {
  switch (number) {
    case 2:
      return Hash{EVP_sha1, 20};
    case 8:
      return Hash{EVP_sha256, 32};
    case 9:
      return Hash{EVP_sha384, 48};
    case 10:
      return Hash{EVP_sha512, 64};
    case 11:
      return Hash{EVP_sha224, 28};
    default:
      return std::nullopt;
  }
}

using Digest = std::vector<std::uint8_t>;

// §5.2.4: the text, the packet's hashed part, and its length in a trailer.
Digest digest_of(const Hash& hash, PacketBytes text, PacketBytes hashed) {
  const std::array<std::uint8_t, 6> trailer = {0x04,
                                               0xff,
                                               static_cast<std::uint8_t>(hashed.size() >> 24),
                                               static_cast<std::uint8_t>(hashed.size() >> 16),
                                               static_cast<std::uint8_t>(hashed.size() >> 8),
                                               static_cast<std::uint8_t>(hashed.size())};
  Digest out(hash.bytes);
  const Owned<EVP_MD_CTX, EVP_MD_CTX_free> context(EVP_MD_CTX_new());
  POSTERN_CHECK(context != nullptr && EVP_DigestInit_ex(context.get(), hash.md(), nullptr) == 1 &&
                EVP_DigestUpdate(context.get(), text.data(), text.size()) == 1 &&
                EVP_DigestUpdate(context.get(), hashed.data(), hashed.size()) == 1 &&
                EVP_DigestUpdate(context.get(), trailer.data(), trailer.size()) == 1 &&
                EVP_DigestFinal_ex(context.get(), out.data(), nullptr) == 1);
  return out;
}

OwnedKey key_from(const char* kind, OSSL_PARAM_BLD* builder) {
  const Owned<OSSL_PARAM, OSSL_PARAM_free> parameters(OSSL_PARAM_BLD_to_param(builder));
  const OwnedKeyContext context(EVP_PKEY_CTX_new_from_name(nullptr, kind, nullptr));
  EVP_PKEY* key = nullptr;
  if (parameters == nullptr || context == nullptr || EVP_PKEY_fromdata_init(context.get()) != 1 ||
      EVP_PKEY_fromdata(context.get(), &key, EVP_PKEY_PUBLIC_KEY, parameters.get()) != 1) {
    return nullptr;
  }
  return OwnedKey(key);
}

OwnedNumber number_of(PacketBytes bytes) {
  return OwnedNumber(BN_bin2bn(bytes.data(), static_cast<int>(bytes.size()), nullptr));
}

// The first `size` bytes of the number, with zeros in front; none where it is longer.
std::optional<std::vector<std::uint8_t>> padded(PacketBytes number, std::size_t size) {
  if (number.size() > size) {
    return std::nullopt;
  }
  std::vector<std::uint8_t> out(size - number.size(), 0);
  out.insert(out.end(), number.begin(), number.end());
  return out;
}

constexpr std::size_t kMinRsaBytes = 1024 / 8;  // GnuPG's own bound
constexpr std::size_t kMaxRsaBytes = 16384 / 8;

Outcome<> verify_rsa(PacketBytes numbers,
                     PacketBytes made,
                     const Hash& hash,
                     const Digest& digest) {
  POSTERN_TRY_ASSIGN(const PacketBytes modulus, take_mpi(numbers));
  POSTERN_TRY_ASSIGN(const PacketBytes exponent, take_mpi(numbers));
  POSTERN_TRY_ASSIGN(const PacketBytes number, take_mpi(made));
  const auto signature = padded(number, modulus.size());
  if (modulus.size() < kMinRsaBytes || modulus.size() > kMaxRsaBytes) {
    return unsupported("an RSA key of an unusual size");
  }
  const Owned<OSSL_PARAM_BLD, OSSL_PARAM_BLD_free> builder(OSSL_PARAM_BLD_new());
  const OwnedNumber n = number_of(modulus);
  const OwnedNumber e = number_of(exponent);
  POSTERN_CHECK(builder != nullptr && n != nullptr && e != nullptr &&
                OSSL_PARAM_BLD_push_BN(builder.get(), OSSL_PKEY_PARAM_RSA_N, n.get()) == 1 &&
                OSSL_PARAM_BLD_push_BN(builder.get(), OSSL_PKEY_PARAM_RSA_E, e.get()) == 1);
  const OwnedKey key = key_from("RSA", builder.get());
  const OwnedKeyContext context(key != nullptr ? EVP_PKEY_CTX_new(key.get(), nullptr) : nullptr);
  const bool good = signature && context != nullptr && EVP_PKEY_verify_init(context.get()) == 1 &&
                    EVP_PKEY_CTX_set_rsa_padding(context.get(), RSA_PKCS1_PADDING) == 1 &&
                    EVP_PKEY_CTX_set_signature_md(context.get(), hash.md()) == 1 &&
                    EVP_PKEY_verify(context.get(), signature->data(), signature->size(),
                                    digest.data(), digest.size()) == 1;
  return good ? Outcome<>(Ok{}) : Outcome<>(bad_signature());
}

Outcome<> verify_ecdsa(PacketBytes numbers, PacketBytes made, const Digest& digest) {
  POSTERN_TRY_ASSIGN(const PacketBytes oid, take_oid(numbers));
  const Curve* curve = find_curve(oid);
  if (curve == nullptr) {
    return unsupported("an ECDSA key on an unknown curve");
  }
  POSTERN_TRY_ASSIGN(const PacketBytes point, take_mpi(numbers));
  POSTERN_TRY_ASSIGN(const PacketBytes r, take_mpi(made));
  POSTERN_TRY_ASSIGN(const PacketBytes s, take_mpi(made));
  // As GnuPG (FIPS 186-4): the digest is not shorter than the curve's order.
  if (digest.size() * 8 < std::min<std::size_t>(curve->bits, 512)) {
    return Problem{"the signature's hash is too short for its ECDSA key"};
  }
  const Owned<OSSL_PARAM_BLD, OSSL_PARAM_BLD_free> builder(OSSL_PARAM_BLD_new());
  POSTERN_CHECK(builder != nullptr &&
                OSSL_PARAM_BLD_push_utf8_string(builder.get(), OSSL_PKEY_PARAM_GROUP_NAME,
                                                curve->name, 0) == 1 &&
                OSSL_PARAM_BLD_push_octet_string(builder.get(), OSSL_PKEY_PARAM_PUB_KEY,
                                                 point.data(), point.size()) == 1);
  const OwnedKey key = key_from("EC", builder.get());
  const Owned<ECDSA_SIG, ECDSA_SIG_free> pair(ECDSA_SIG_new());
  POSTERN_CHECK(pair != nullptr &&
                ECDSA_SIG_set0(pair.get(), number_of(r).release(), number_of(s).release()) == 1);
  unsigned char* der = nullptr;
  const int der_bytes = i2d_ECDSA_SIG(pair.get(), &der);
  const OwnedKeyContext context(key != nullptr ? EVP_PKEY_CTX_new(key.get(), nullptr) : nullptr);
  const bool good = der_bytes > 0 && context != nullptr &&
                    EVP_PKEY_verify_init(context.get()) == 1 &&
                    EVP_PKEY_verify(context.get(), der, static_cast<std::size_t>(der_bytes),
                                    digest.data(), digest.size()) == 1;
  OPENSSL_free(der);
  return good ? Outcome<>(Ok{}) : Outcome<>(bad_signature());
}

// The point is 0x40 and 32 bytes; the message of Ed25519 is the digest.
Outcome<> verify_eddsa(PacketBytes numbers, PacketBytes made, const Digest& digest) {
  POSTERN_TRY_ASSIGN(const PacketBytes oid, take_oid(numbers));
  if (!std::equal(oid.begin(), oid.end(), kEd25519Oid.begin(), kEd25519Oid.end())) {
    return unsupported("an EdDSA key on another curve than Ed25519");
  }
  POSTERN_TRY_ASSIGN(const PacketBytes point, take_mpi(numbers));
  POSTERN_TRY_ASSIGN(const PacketBytes r, take_mpi(made));
  POSTERN_TRY_ASSIGN(const PacketBytes s, take_mpi(made));
  const auto first = padded(r, kEd25519Bytes);
  const auto second = padded(s, kEd25519Bytes);
  if (point.size() != 1 + kEd25519Bytes || point[0] != 0x40 || !first || !second) {
    return bad_signature();
  }
  std::vector<std::uint8_t> signature = *first;
  signature.insert(signature.end(), second->begin(), second->end());
  const OwnedKey key(
      EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, &point[1], kEd25519Bytes));
  const Owned<EVP_MD_CTX, EVP_MD_CTX_free> context(EVP_MD_CTX_new());
  const bool good =
      key != nullptr && context != nullptr &&
      EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, key.get()) == 1 &&
      EVP_DigestVerify(context.get(), signature.data(), signature.size(), digest.data(),
                       digest.size()) == 1;
  return good ? Outcome<>(Ok{}) : Outcome<>(bad_signature());
}

}  // namespace

Outcome<> check_key_kind(const KeyBody& key) {
  PacketBytes numbers = key.numbers;
  switch (KeyAlgorithm{key.algorithm}) {
    case KeyAlgorithm::kRsa:
    case KeyAlgorithm::kRsaSign: {
      POSTERN_TRY_ASSIGN(const PacketBytes modulus, take_mpi(numbers));
      return modulus.size() >= kMinRsaBytes && modulus.size() <= kMaxRsaBytes
                 ? Outcome<>(Ok{})
                 : Outcome<>(unsupported("an RSA key of an unusual size"));
    }
    case KeyAlgorithm::kEcdsa: {
      POSTERN_TRY_ASSIGN(const PacketBytes oid, take_oid(numbers));
      return find_curve(oid) != nullptr
                 ? Outcome<>(Ok{})
                 : Outcome<>(unsupported("an ECDSA key on an unknown curve"));
    }
    case KeyAlgorithm::kEddsa: {
      POSTERN_TRY_ASSIGN(const PacketBytes oid, take_oid(numbers));
      return std::equal(oid.begin(), oid.end(), kEd25519Oid.begin(), kEd25519Oid.end())
                 ? Outcome<>(Ok{})
                 : Outcome<>(unsupported("an EdDSA key on another curve than Ed25519"));
    }
  }
  return unsupported("a key of an unsupported kind (number " + std::to_string(key.algorithm) + ")");
}

Outcome<> verify_signature(const KeyBody& key, const SignatureBody& signature, PacketBytes text) {
  const std::optional<Hash> hash = hash_of(signature.hash);
  if (!hash) {
    return Problem{"the signature is made with an unknown hash"};
  }
  POSTERN_TRY(check_key_kind(key));
  // RSA has two numbers.
  const bool same_kind = key.algorithm == signature.key_algorithm ||
                         (KeyAlgorithm{key.algorithm} == KeyAlgorithm::kRsaSign &&
                          KeyAlgorithm{signature.key_algorithm} == KeyAlgorithm::kRsa) ||
                         (KeyAlgorithm{key.algorithm} == KeyAlgorithm::kRsa &&
                          KeyAlgorithm{signature.key_algorithm} == KeyAlgorithm::kRsaSign);
  if (!same_kind) {
    return Problem{"the signature is of another kind than its key"};
  }
  const Digest digest = digest_of(*hash, text, signature.hashed);
  switch (KeyAlgorithm{key.algorithm}) {
    case KeyAlgorithm::kRsa:
    case KeyAlgorithm::kRsaSign:
      return verify_rsa(key.numbers, signature.numbers, *hash, digest);
    case KeyAlgorithm::kEcdsa:
      return verify_ecdsa(key.numbers, signature.numbers, digest);
    case KeyAlgorithm::kEddsa:
      return verify_eddsa(key.numbers, signature.numbers, digest);
  }
  return bad_signature();
}

}  // namespace postern::signature

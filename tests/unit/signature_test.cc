#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include <sys/mman.h>
#include <sys/stat.h>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <unistd.h>

#include "policy/signature/clear_sign.h"
#include "policy/signature/digest.h"
#include "policy/signature/dsse.h"
#include "policy/signature/gnupg_ring.h"
#include "policy/signature/metadata.h"
#include "policy/signature/verify.h"
#include "policy/text/base64.h"
#include "protocol/base/unique_fd.h"
#include "tests/unit/fresh.h"

namespace {

using postern::Fresh;
using postern::UniqueFd;
namespace sif = postern::sif;
namespace signature = postern::signature;
using postern::signature::Algorithm;
using postern::signature::Failure;
using postern::signature::KeyMaterial;
using postern::signature::VerifyOptions;
using postern::signature::VerifyReport;

const std::string kData = POSTERN_TEST_DATA "/images/";

std::string file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream out;
  out << in.rdbuf();
  return out.str();
}

UniqueFd memory_file(const std::string& bytes) {
  UniqueFd fd(::memfd_create("image", MFD_CLOEXEC));
  REQUIRE(fd.valid());
  REQUIRE(::pwrite(fd.get(), bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()));
  return fd;
}

// A keyring directory as a site would have it, gone at the end of the test.
class Ring {
 public:
  explicit Ring(const std::string& keys) {
    REQUIRE(::mkdtemp(path_.data()) != nullptr);
    std::ofstream(path_ + "/gpg.conf") << signature::keyring_options();
    std::ofstream(path_ + "/pubring.gpg", std::ios::binary) << keys;
  }

  ~Ring() { std::filesystem::remove_all(path_); }

  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  [[nodiscard]] const std::string& path() const { return path_; }

  [[nodiscard]] std::unique_ptr<signature::PgpRing> open() const {
    auto ring = signature::GnupgRing::open(path_, signature::KeyOrigin::kGlobal);
    REQUIRE(ring);
    return *std::move(ring);
  }

 private:
  std::string path_ = "/tmp/postern-ring-XXXXXX";
};

std::string dearmored(const std::string& armor) {
  std::string base64;
  std::istringstream in(armor.substr(armor.find("\n\n") + 2));
  for (std::string line; std::getline(in, line) && line[0] != '=' && line[0] != '-';) {
    base64 += line;
  }
  const auto bytes = postern::text::decode_base64(base64);
  REQUIRE(bytes);
  return {bytes->begin(), bytes->end()};
}

std::string public_keys() {
  return dearmored(file(kData + "keys/pgp-public.asc"));
}

constexpr const char* kSigner = "f34371d0acd5d09eb9bd853a80600a5fa11bbd29";

VerifyReport verify_bytes(const std::string& bytes,
                          const KeyMaterial& material,
                          const VerifyOptions& options = {}) {
  const UniqueFd fd = memory_file(bytes);
  const auto image = sif::read(Fresh(fd.get()));
  if (!image) {
    VerifyReport report;
    report.failure = Failure::kUnreadable;
    report.problem = image.error();
    return report;
  }
  return signature::verify(*image, Fresh(fd.get()), options, material);
}

KeyMaterial pem_material(std::initializer_list<const char*> names) {
  KeyMaterial out;
  for (const char* name : names) {
    auto key = signature::PublicKey::from_pem(file(kData + "keys/" + name), name);
    REQUIRE(key);
    out.keys.push_back(*std::move(key));
  }
  return out;
}

enum class Pem : std::uint8_t { kPrivate, kPublic, kRsaPublic };

// PEM text of a fresh key, which is given over to this function.
std::string pem_of(EVP_PKEY* key, Pem form) {
  REQUIRE(key != nullptr);
  BIO* out = BIO_new(BIO_s_mem());
  switch (form) {
    case Pem::kPrivate:
      PEM_write_bio_PrivateKey(out, key, nullptr, nullptr, 0, nullptr, nullptr);
      break;
    case Pem::kPublic:
      PEM_write_bio_PUBKEY(out, key);
      break;
    case Pem::kRsaPublic: {
      unsigned char* der = nullptr;
      const int bytes = i2d_PublicKey(key, &der);
      PEM_write_bio(out, PEM_STRING_RSA_PUBLIC, "", der, bytes);
      OPENSSL_free(der);
      break;
    }
  }
  char* text = nullptr;
  const long bytes = BIO_get_mem_data(out, &text);
  std::string pem(text, static_cast<std::size_t>(bytes));
  BIO_free(out);
  EVP_PKEY_free(key);
  return pem;
}

EVP_PKEY* fresh(const char* kind, const char* detail = nullptr) {
  return detail != nullptr ? EVP_PKEY_Q_keygen(nullptr, nullptr, kind, detail)
                           : EVP_PKEY_Q_keygen(nullptr, nullptr, kind);
}

const sif::Descriptor& object(const sif::Image& image, std::uint32_t id) {
  const auto found = image.object(id);
  REQUIRE(found);
  return **found;
}

}  // namespace

TEST_SUITE("signature") {
  TEST_CASE("digests of another implementation's image are what it signed") {
    const UniqueFd fd = memory_file(file(kData + "one-group-signed-pgp.sif"));
    const auto image = sif::read(Fresh(fd.get()));
    REQUIRE(image);
    CHECK(postern::signature::digest_text(
              signature::header_digest(Algorithm::kSha256, image->raw_header())) ==
          "sha256:2086c56f4fc4b733d256d56b780a16c3c906578ab4a90158306de17798bc3f82");
    CHECK(postern::signature::digest_text(
              signature::descriptor_digest(Algorithm::kSha256, object(*image, 1).raw, 0)) ==
          "sha256:72e10abae30a69c4eccae514d3d2217d1a03820767c50273b224b0ed69c3cf89");
    CHECK(postern::signature::digest_text(
              signature::descriptor_digest(Algorithm::kSha256, object(*image, 2).raw, 1)) ==
          "sha256:9a2fa8bc044f51d56ee818101828d1f5f9fdd5ed012cad8231aca8551d886d07");
    const auto text = signature::metadata_of(*image, Fresh(fd.get()), 1, {1, 2});
    REQUIRE(text);
    CHECK(text->find("\"objectDigest\":\"sha256:"
                     "5f78c33274e43fa9de5659265c1d917e25c03722dcb0b8d27db8d5feaa813953\"}]}") !=
          std::string::npos);
    const auto message = signature::parse_clear_signed(
        *sif::read_object(Fresh(fd.get()), *image, object(*image, 3), 1 << 20));
    REQUIRE(message);
    CHECK(message->text == *text);  // byte for byte what the other implementation wrote
  }

  TEST_CASE("a digest's text is strict about algorithm, colon and length") {
    using signature::parse_digest;
    const std::string hex(64, 'A');
    REQUIRE(parse_digest("sha256:" + hex));
    CHECK(postern::signature::digest_text(*parse_digest("sha256:" + hex)) ==
          "sha256:" + std::string(64, 'a'));
    CHECK(parse_digest("sha512_224:" + std::string(56, '0')));
    for (const std::string& bad :
         {hex, "sha256:" + hex + "0", "sha256:" + hex.substr(2), "SHA256:" + hex, "sha256::" + hex,
          "sha1:" + std::string(40, '0'), "sha256:" + std::string(63, '0') + "g", std::string(),
          std::string(":"), "sha512-224:" + std::string(56, '0')}) {
      CAPTURE(bad);
      CHECK_FALSE(parse_digest(bad));
    }
  }

  TEST_CASE("jobs are hashed as one stream each, in order, whatever the number of threads") {
    std::string bytes(3 << 20, '\0');
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      bytes[i] = static_cast<char>(i * 2654435761U >> 13);
    }
    const UniqueFd fd = memory_file(bytes);
    std::vector<signature::HashJob> jobs;
    std::vector<signature::Digest> expected;
    for (std::size_t i = 0; i < 7; ++i) {
      const std::size_t start = i * 400000;
      jobs.push_back({i % 2 == 0 ? Algorithm::kSha256 : Algorithm::kSha512,
                      {{start, 300000}, {start + 350000, 5}}});
      expected.push_back(signature::digest_of(
          jobs.back().algorithm, bytes.substr(start, 300000) + bytes.substr(start + 350000, 5)));
    }
    for (const unsigned threads : {1U, 3U, 16U}) {
      std::uint64_t seen = 0;
      const auto got =
          signature::hash_file(Fresh(fd.get()), jobs, [&](std::uint64_t n) { seen += n; }, threads);
      REQUIRE(got);
      CHECK(*got == expected);
      CHECK(seen == 7 * 300005);
    }
    CHECK_FALSE(signature::hash_file(Fresh(fd.get()), {{Algorithm::kSha256, {{3 << 20, 1}}}}));
    // Several jobs may name the same bytes, which are read once for all of them; parts that overlap
    // would have to be read twice.
    std::uint64_t seen = 0;
    const auto shared = signature::hash_file(Fresh(fd.get()),
                                             {{Algorithm::kSha256, {{0, 1000}}},
                                              {Algorithm::kSha512, {{0, 1000}}},
                                              {Algorithm::kSha256, {{0, 1000}, {5000, 7}}}},
                                             [&](std::uint64_t n) { seen += n; });
    REQUIRE(shared);
    CHECK(seen == 1007);
    CHECK((*shared)[1] == signature::digest_of(Algorithm::kSha512, bytes.substr(0, 1000)));
    CHECK((*shared)[2] ==
          signature::digest_of(Algorithm::kSha256, bytes.substr(0, 1000) + bytes.substr(5000, 7)));
    CHECK_FALSE(signature::hash_file(
        Fresh(fd.get()), {{Algorithm::kSha256, {{0, 1000}}}, {Algorithm::kSha256, {{999, 10}}}}));
  }

  TEST_CASE("metadata: what is written is read, with names in any case and unknown members") {
    signature::Metadata metadata;
    metadata.header = signature::digest_of(Algorithm::kSha256, "h");
    metadata.objects.push_back({7, signature::digest_of(Algorithm::kSha384, "d"),
                                signature::digest_of(Algorithm::kSha256, "o")});
    const std::string text = signature::write_metadata(metadata);
    auto again = signature::parse_metadata(" " + text + "\n");
    REQUIRE(again);
    CHECK(signature::write_metadata(*again) == text);
    std::string other = text;
    other.replace(other.find("relativeId"), 10, "RELATIVEID");
    other.insert(1, "\"more\":[{}],");
    CHECK(signature::parse_metadata(other));
  }

  TEST_CASE("metadata that two readers could take differently is refused") {
    const std::string digest = "\"sha256:" + std::string(64, '0') + "\"";
    const std::string header = "\"header\":{\"digest\":" + digest + "}";
    const std::string entry =
        "{\"relativeId\":0,\"descriptorDigest\":" + digest + ",\"objectDigest\":" + digest + "}";
    const auto whole = [&](const std::string& objects) {
      return "{\"version\":1," + header + ",\"objects\":" + objects + "}";
    };
    CHECK(signature::parse_metadata(whole("[" + entry + "]")));
    CHECK(signature::parse_metadata(whole("null")));
    CHECK(signature::parse_metadata("{\"version\":1," + header + "}"));
    const std::vector<std::string> bad = {
        "",
        "[]",
        "null",
        "{}",
        whole("{}"),
        whole("[" + entry + "," + entry + "]"),
        "{\"version\":2," + header + "}",
        "{\"version\":\"1\"," + header + "}",
        "{\"version\":1.0," + header + "}",
        "{" + header + "}",
        "{\"version\":1}",
        "{\"version\":1,\"Version\":1," + header + "}",
        "{\"version\":1," + header + "," + header + "}",
        "{\"version\":1,\"header\":{\"digest\":null}}",
        "{\"version\":1,\"header\":{\"digest\":3}}",
        whole("[{}]"),
        whole("[3]"),
        whole("[{\"relativeId\":-1,\"descriptorDigest\":" + digest + ",\"objectDigest\":" + digest +
              "}]"),
        whole("[{\"relativeId\":4294967296,\"descriptorDigest\":" + digest +
              ",\"objectDigest\":" + digest + "}]"),
        whole("[{\"relativeId\":1e0,\"descriptorDigest\":" + digest +
              ",\"objectDigest\":" + digest + "}]"),
        whole("[{\"relativeId\":\"0\",\"descriptorDigest\":" + digest +
              ",\"objectDigest\":" + digest + "}]"),
        whole("[]") + "x",
        whole("[]") + whole("[]"),
        "\xEF\xBB\xBF" + whole("[]"),
        "{\"a\":[[[[[[[[1]]]]]]]]," + whole("[]").substr(1),
        std::string(1 << 20, '['),
        whole("[" + entry.substr(0, entry.size() - 2)),
        std::string(5 << 20, ' ') + whole("[]")};
    for (const std::string& text : bad) {
      CAPTURE(text.substr(0, 200));
      CHECK_FALSE(signature::parse_metadata(text));
    }
  }

  TEST_CASE("the clear-signed form: text is dash-unescaped, trimmed and joined by CR LF") {
    const std::string sig =
        "-----BEGIN PGP SIGNATURE-----\n\niHUE\nAA==\n=abcd\n-----END PGP SIGNATURE-----\n";
    const auto got = signature::parse_clear_signed(
        "-----BEGIN PGP SIGNED MESSAGE-----\r\nHash: SHA256, sha512\n \n- -dashed\nplain "
        "\t\r\n\nend\n" +
        sig + "\n \n");
    REQUIRE(got);
    CHECK(got->text == "-dashed\nplain\n\nend");
    CHECK(got->signed_bytes == "-dashed\r\nplain\r\n\r\nend");
    CHECK(got->hashes == std::vector<std::string>{"SHA256", "SHA512"});
    CHECK(got->packets == std::vector<std::uint8_t>{0x88, 0x75, 0x04, 0x00});
  }

  TEST_CASE("a clear-signed message with anything else in it is refused") {
    const std::string start = "-----BEGIN PGP SIGNED MESSAGE-----\n";
    const std::string head = start + "Hash: SHA256\n\n";
    const std::string sig = "-----BEGIN PGP SIGNATURE-----\n\niHUE\n-----END PGP SIGNATURE-----";
    CHECK(signature::parse_clear_signed(head + "x\n" + sig));
    CHECK(signature::parse_clear_signed(start + "\nx\n" + sig));  // no Hash header at all
    const std::vector<std::string> bad = {
        "",
        "x\n" + head + "x\n" + sig,
        "-----BEGIN PGP SIGNED MESSAGE----- \n\nx\n" + sig,
        start + "Hash: MD4\n\nx\n" + sig,
        start + "Charset: utf-8\n\nx\n" + sig,
        start + "hash: SHA256\n\nx\n" + sig,
        start + "Hash: SHA256\n",
        head + sig,
        head + "x\n",
        head + "-x\n" + sig,
        head + "-----BEGIN PGP SIGNED MESSAGE-----\nx\n" + sig,
        head + "a\rb\n" + sig,
        head + std::string("a\0b\n", 4) + sig,
        head + "x\n" + sig + "\ntrailing",
        head + "x\n" + sig + "\n" + head + "x\n" + sig,
        head + "x\n-----BEGIN PGP SIGNATURE-----\niHUE\n-----END PGP SIGNATURE-----",
        head + "x\n-----BEGIN PGP SIGNATURE-----\n\n-----END PGP SIGNATURE-----",
        head + "x\n-----BEGIN PGP SIGNATURE-----\n\niHU\n-----END PGP SIGNATURE-----",
        head + "x\n-----BEGIN PGP SIGNATURE-----\n\ni*UE\n-----END PGP SIGNATURE-----",
        head + "x\n-----BEGIN PGP SIGNATURE-----\n\niHUE\n",
        head + "x\n-----BEGIN PGP SIGNATURE-----\n\n" + std::string(100, 'A') +
            "\n-----END PGP SIGNATURE-----",
        head + "x\n-----BEGIN PGP SIGNATURE-----\n\niHUE\n=abcd\niHUE\n-----END PGP SIGNATURE-----",
        head + std::string(5 << 20, 'x') + "\n" + sig};
    for (const std::string& text : bad) {
      CAPTURE(text.substr(0, 300));
      CHECK_FALSE(signature::parse_clear_signed(text));
    }
  }

  TEST_CASE("exactly one signature packet of version 4 with a strong hash and an issuer") {
    using Bytes = std::vector<std::uint8_t>;
    const auto packet = [](Bytes body, bool new_format) {
      Bytes out = new_format ? Bytes{0xC2, static_cast<std::uint8_t>(body.size())}
                             : Bytes{0x88, static_cast<std::uint8_t>(body.size())};
      std::copy(body.begin(), body.end(), std::back_inserter(out));
      return out;
    };
    const auto body = [](std::uint8_t version, std::uint8_t type, std::uint8_t hash) {
      return Bytes{version, type, 1, hash, 0, 0, 0, 10, 9, 16, 1, 2, 3, 4, 5, 6, 7, 8, 0xAA, 0xBB};
    };
    const auto parse = [](Bytes packets, std::vector<std::string> hashes = {}) {
      signature::ClearSigned message;
      message.packets = std::move(packets);
      message.hashes = std::move(hashes);
      return signature::parse_signature_packet(message);
    };
    const auto good = parse(packet(body(4, 0, 8), true));
    REQUIRE(good);
    CHECK(good->issuer == "0102030405060708");
    CHECK(parse(packet(body(4, 1, 10), false), {"SHA1", "SHA512"}));
    CHECK_FALSE(parse(packet(body(4, 1, 10), false), {"SHA256"}));  // the header lies
    for (const std::uint8_t weak : std::to_array<std::uint8_t>({0, 1, 2, 3, 4, 7, 12, 200})) {
      CHECK_FALSE(parse(packet(body(4, 0, weak), true)));
    }
    CHECK_FALSE(parse(packet(body(3, 0, 8), true)));
    CHECK_FALSE(parse(packet(body(5, 0, 8), true)));
    CHECK_FALSE(parse(packet(body(4, 0x10, 8), true)));  // a certification, not a document's
    Bytes two = packet(body(4, 0, 8), true);
    const Bytes once = two;
    std::copy(once.begin(), once.end(), std::back_inserter(two));
    CHECK_FALSE(parse(two));
    Bytes marker = {0xCA, 3, 'P', 'G', 'P'};
    std::copy(once.begin(), once.end(), std::back_inserter(marker));
    CHECK_FALSE(parse(marker));
    Bytes partial = once;
    partial[1] = 0xE4;
    CHECK_FALSE(parse(partial));
    Bytes indeterminate = once;
    indeterminate[0] = 0x8B;
    CHECK_FALSE(parse(indeterminate));
    for (std::size_t size = 0; size < once.size(); ++size) {
      CHECK_FALSE(parse(Bytes(once.begin(), once.begin() + static_cast<std::ptrdiff_t>(size))));
    }
    Bytes no_issuer = once;
    no_issuer[11] = 20;  // another kind of sub-packet
    CHECK_FALSE(parse(no_issuer));
    Bytes long_subpacket = once;
    long_subpacket[10] = 250;
    CHECK_FALSE(parse(long_subpacket));
  }

  TEST_CASE("base64 has one spelling for each value") {
    for (const std::string text : {"", "f", "fo", "foo", "foob"}) {
      const std::vector<std::uint8_t> bytes(text.begin(), text.end());
      CHECK(postern::text::decode_base64(postern::text::encode_base64(bytes)) == bytes);
    }
    CHECK(postern::text::encode_base64(std::vector<std::uint8_t>{'f', 'o'}) == "Zm8=");
    CHECK(postern::text::decode_base64("-_-_", true) == postern::text::decode_base64("+/+/"));
    for (const char* bad :
         {"Zg", "Zg=", "Zh==", "Zm9=", "====", "Z===", "Zg==Zg==", "-_-_", "Zg= =", "\n"}) {
      CAPTURE(bad);
      CHECK_FALSE(postern::text::decode_base64(bad));
    }
  }

  TEST_CASE("an OpenPGP signature of another implementation holds, with the key in the ring") {
    const Ring ring(public_keys());
    KeyMaterial material;
    material.rings.push_back(ring.open());
    const VerifyReport report = verify_bytes(file(kData + "one-group-signed-pgp.sif"), material);
    CHECK(report.problem.what == "");
    CHECK(report.failure == Failure::kNone);
    REQUIRE(report.signatures.size() == 1);
    CHECK(report.signatures[0].valid);
    CHECK(report.signatures[0].fingerprint == kSigner);
    CHECK(report.signatures[0].objects == std::vector<std::uint32_t>{1, 2});
    CHECK(report.valid_all == std::vector<std::string>{std::string("pgp:") + kSigner});
    CHECK(report.claimed_any == report.valid_all);
    // Nothing was left in the keyring: two files went in, two are there.
    CHECK(std::distance(std::filesystem::directory_iterator(ring.path()), {}) == 2);
  }

  TEST_CASE("an unknown signer is an error, and is forgiven where that is asked for") {
    const Ring ring("");
    KeyMaterial material;
    material.rings.push_back(ring.open());
    const std::string image = file(kData + "one-group-signed-pgp.sif");
    const VerifyReport report = verify_bytes(image, material);
    CHECK(report.failure == Failure::kNotValid);
    CHECK(report.failed_object == 3);
    CHECK(report.problem.what.find("unknown signer") != std::string::npos);
    VerifyOptions forgiving;
    forgiving.forgive_invalid = true;
    const VerifyReport forgiven = verify_bytes(image, material, forgiving);
    CHECK(forgiven.failure == Failure::kNone);
    CHECK(forgiven.valid_all.empty());
    CHECK(forgiven.unvalidated == std::vector<std::string>{std::string("pgp:") + kSigner});
    // A server may have the key.
    const Ring known(public_keys());
    std::string asked;
    material.fetch = [&](const std::string& id) {
      asked = id;
      return known.open();
    };
    CHECK(verify_bytes(image, material).failure == Failure::kNone);
    CHECK(asked == kSigner);
  }

  TEST_CASE("legacy signatures hold in legacy mode only") {
    const Ring ring(public_keys());
    KeyMaterial material;
    material.rings.push_back(ring.open());
    VerifyOptions legacy;
    legacy.legacy = true;
    VerifyOptions object2 = legacy;
    object2.objects = {2};
    VerifyOptions group1 = legacy;
    group1.groups = {1};
    VerifyOptions all = legacy;
    all.legacy_all = true;

    struct Row {
      const char* image;
      const VerifyOptions* options;
      Failure failure;
    };

    const VerifyOptions modern;
    const std::array rows = std::to_array<Row>({
        {"one-group-signed-legacy.sif", &legacy, Failure::kNone},
        {"one-group-signed-legacy.sif", &object2, Failure::kNone},
        {"one-group-signed-legacy.sif", &modern, Failure::kNoSignature},
        {"one-group-signed-legacy.sif", &group1, Failure::kNoSignature},
        {"one-group-signed-legacy.sif", &all, Failure::kNoSignature},
        {"one-group-signed-legacy-all.sif", &all, Failure::kNone},
        {"one-group-signed-legacy-all.sif", &modern, Failure::kNoSignature},
        {"one-group-signed-legacy-group.sif", &group1, Failure::kNone},
        {"one-group-signed-legacy-group.sif", &modern, Failure::kNoSignature},
        {"one-group-signed-pgp.sif", &group1, Failure::kNoSignature},
        {"one-group.sif", &modern, Failure::kNoSignature},
        {"empty.sif", &modern, Failure::kNoGroups},
    });
    for (const Row& row : rows) {
      CAPTURE(row.image);
      const VerifyReport report = verify_bytes(file(kData + row.image), material, *row.options);
      CAPTURE(report.problem.what);
      CHECK(report.failure == row.failure);
    }
    // Legacy digests cover data alone, but they do cover it.
    std::string bytes = file(kData + "one-group-signed-legacy.sif");
    const UniqueFd fd = memory_file(bytes);
    const auto image = sif::read(Fresh(fd.get()));
    bytes[static_cast<std::size_t>(object(*image, 2).offset)] ^= 1;
    CHECK(verify_bytes(bytes, material, legacy).failure == Failure::kObject);
  }

  TEST_CASE("a DSSE envelope of another implementation holds for each kind of key") {
    const std::string image = file(kData + "one-group-signed-dsse.sif");
    for (const char* name : {"ed25519-public.pem", "rsa-public.pem"}) {
      CAPTURE(name);
      const VerifyReport report = verify_bytes(image, pem_material({name}));
      CAPTURE(report.problem.what);
      CHECK(report.failure == Failure::kNone);
      CHECK(report.signatures.at(0).form == signature::Form::kDsse);
      CHECK(report.valid_all.at(0).substr(0, 7) == "sha256:");
    }
    CHECK(verify_bytes(image, pem_material({"ecdsa-public.pem", "rsa-public.pem"})).failure ==
          Failure::kNone);
    CHECK(verify_bytes(image, pem_material({"ecdsa-public.pem"})).failure == Failure::kNotValid);
    CHECK(verify_bytes(image, {}).failure == Failure::kNoPemMaterial);
    CHECK(verify_bytes(file(kData + "one-group-signed-pgp.sif"), {}).failure ==
          Failure::kNoPgpMaterial);
  }

  // Every byte of the image is flipped, one at a time, and the verdict compared with what the
  // format says that a signature covers.
  TEST_CASE("tampering: every covered byte is missed, and the error names what changed") {
    const std::string good = file(kData + "one-group-signed-dsse.sif");
    const KeyMaterial material = pem_material({"ed25519-public.pem"});
    const UniqueFd fd = memory_file(good);
    const auto image = sif::read(Fresh(fd.get()));
    REQUIRE(image);
    REQUIRE(image->descriptors().size() == 3);
    std::size_t covered = 0;
    const auto flip = [&](std::size_t at) {
      std::string bytes = good;
      bytes[at] = static_cast<char>(bytes[at] ^ 1);
      VerifyReport report = verify_bytes(bytes, material);
      covered += report.failure == Failure::kNone ? 0 : 1;
      return report;
    };
    for (std::size_t at = 0; at < sif::kHeaderBytes; ++at) {
      CAPTURE(at);
      const VerifyReport report = flip(at);
      const bool identity = at >= sif::kUuidAt && at < sif::kCreatedAt;
      if (at < sif::kMagicAt || identity) {
        CHECK(report.failure == Failure::kHeader);
      } else if (at < sif::kArchitectureAt) {
        CHECK(report.failure == Failure::kUnreadable);  // magic and version: not a SIF any more
      } else if (at < sif::kTotalAt) {
        CHECK(report.failure == Failure::kNone);  // architecture, times, free: in no digest
      }
    }
    const auto table = static_cast<std::size_t>(image->header().table_offset);
    for (const std::size_t slot : {std::size_t{0}, std::size_t{1}}) {
      for (std::size_t at = 0; at < sif::kDescriptorBytes; ++at) {
        CAPTURE(slot);
        CAPTURE(at);
        const VerifyReport report = flip(table + slot * sif::kDescriptorBytes + at);
        const bool free_bytes = (at >= sif::kPaddedSizeAt && at < sif::kObjectCreatedAt) ||
                                (at >= sif::kObjectModifiedAt && at < sif::kUidAt);
        CHECK((report.failure == Failure::kNone) == free_bytes);
        const bool descriptor_bytes = (at >= sif::kLinkAt && at < sif::kOffsetAt) ||
                                      (at >= sif::kObjectCreatedAt && !free_bytes);
        if (descriptor_bytes) {
          CHECK(report.failure == Failure::kDescriptor);
          CHECK(report.failed_object == slot + 1);
        }
      }
      const sif::Descriptor& object = image->descriptors()[slot];
      for (std::int64_t at = object.offset; at < object.offset + object.size; ++at) {
        const VerifyReport report = flip(static_cast<std::size_t>(at));
        CHECK(report.failure == Failure::kObject);
        CHECK(report.failed_object == slot + 1);
        CHECK(report.problem.what.find("object " + std::to_string(slot + 1)) != std::string::npos);
      }
    }
    const sif::Descriptor& envelope = image->descriptors()[2];
    const auto begin = static_cast<std::size_t>(envelope.offset);
    const std::size_t list = good.find("\"signatures\"", begin);
    for (std::size_t at = begin; at < list; ++at) {
      CAPTURE(at);
      CHECK(flip(at).failure != Failure::kNone);
    }
    CHECK(covered > 1000);  // the loops above did something
  }

  TEST_CASE("tampering with an OpenPGP signature, its text and its descriptor") {
    const Ring ring(public_keys());
    KeyMaterial material;
    material.rings.push_back(ring.open());
    const std::string good = file(kData + "one-group-signed-pgp.sif");
    const UniqueFd fd = memory_file(good);
    const auto image = sif::read(Fresh(fd.get()));
    REQUIRE(image);
    const sif::Descriptor& signature = object(*image, 3);
    const auto begin = static_cast<std::size_t>(signature.offset);
    const auto failure = [&](std::size_t at, char with) {
      std::string bytes = good;
      REQUIRE(bytes[at] != with);
      bytes[at] = with;
      return verify_bytes(bytes, material).failure;
    };
    CHECK(failure(good.find("relativeId\":0", begin) + 12, '2') == Failure::kNotValid);
    CHECK(failure(good.find("004dfc8d", begin), '1') == Failure::kNotValid);
    CHECK(failure(good.find("wsFz", begin) + 40, '!') == Failure::kUnknownForm);
    const std::size_t base64 = good.find("\n\nws", begin) + 200;
    CHECK(failure(base64, good[base64] == 'A' ? 'B' : 'A') == Failure::kNotValid);
    const std::size_t slot =
        static_cast<std::size_t>(image->header().table_offset) + 2 * sif::kDescriptorBytes;
    CHECK(failure(slot + sif::kExtraAt, 0) == Failure::kHashType);
    CHECK(failure(slot + sif::kExtraAt + 4, 0) == Failure::kFingerprint);
    CHECK(failure(slot + sif::kExtraAt + 300, 1) == Failure::kNone);  // not a part of it
    CHECK(failure(slot + sif::kLinkAt, 2) == Failure::kNoSignature);  // linked to group 2
    CHECK(failure(slot + sif::kLinkAt, 3) == Failure::kNoSignature);
    CHECK(failure(slot + sif::kLinkAt + 3, 0) == Failure::kNoSignature);  // linked to an object
    CHECK(failure(slot + sif::kTypeAt, 4) == Failure::kUngroupedObject);  // a partition in no group
    CHECK(failure(slot + sif::kUsedAt, 0) == Failure::kNoSignature);
    CHECK(failure(slot + sif::kGroupAt, 1) ==
          Failure::kNotSigned);  // joined the group that it signs
  }

  TEST_CASE("objects added, removed or doubled after signing are named") {
    const KeyMaterial material = pem_material({"ed25519-public.pem"});
    const std::string good = file(kData + "one-group-signed-dsse.sif");
    const UniqueFd fd = memory_file(good);
    const auto image = sif::read(Fresh(fd.get()));
    const auto table = static_cast<std::size_t>(image->header().table_offset);
    const auto slot = [&](std::string& bytes, std::size_t n) {
      return bytes.data() + table + n * sif::kDescriptorBytes;
    };
    std::string added = good;
    std::copy_n(slot(added, 1), sif::kDescriptorBytes, slot(added, 3));
    slot(added, 3)[sif::kIdAt] = 4;
    VerifyReport report = verify_bytes(added, material);
    CHECK(report.failure == Failure::kNotSigned);
    CHECK(report.failed_object == 4);
    std::string outside = added;
    slot(outside, 3)[sif::kGroupAt] = 0;
    report = verify_bytes(outside, material);
    CHECK(report.failure == Failure::kUngroupedObject);
    CHECK(report.failed_object == 4);
    std::string doubled = added;
    slot(doubled, 3)[sif::kIdAt] = 2;
    CHECK(verify_bytes(doubled, material).failure == Failure::kAmbiguousObject);
    std::string removed = good;
    std::fill_n(slot(removed, 1), sif::kDescriptorBytes, '\0');
    report = verify_bytes(removed, material);
    CHECK(report.failure == Failure::kSignedMissing);
    CHECK(report.failed_object == 2);
    std::string swapped = good;
    std::swap_ranges(slot(swapped, 0), slot(swapped, 0) + sif::kDescriptorBytes, slot(swapped, 1));
    CHECK(verify_bytes(swapped, material).failure == Failure::kNone);  // order in the table is free
    std::string unsigned_group = added;
    slot(unsigned_group, 3)[sif::kGroupAt] = 2;
    report = verify_bytes(unsigned_group, material);
    CHECK(report.failure == Failure::kNoSignature);
    CHECK(report.failed_object == 2);
    VerifyOptions first;
    first.groups = {1};
    CHECK(verify_bytes(unsigned_group, material, first).failure == Failure::kNone);
  }

  TEST_CASE("an image of thousands of signatures is refused before they are looked at") {
    std::string bytes = file(kData + "one-group-signed-dsse.sif");
    const UniqueFd fd = memory_file(bytes);
    const auto image = sif::read(Fresh(fd.get()));
    const auto table = static_cast<std::size_t>(image->header().table_offset);
    // A table of its own at the end of the file, full of copies of the signature's descriptor.
    constexpr std::size_t kCopies = 4000;
    std::string slots = bytes.substr(table, 3 * sif::kDescriptorBytes);
    for (std::size_t i = 0; i < kCopies; ++i) {
      std::string copy = slots.substr(2 * sif::kDescriptorBytes, sif::kDescriptorBytes);
      copy[sif::kIdAt] = static_cast<char>((i + 4) & 0xff);
      copy[sif::kIdAt + 1] = static_cast<char>((i + 4) >> 8);
      slots += copy;
    }
    const auto store = [&](std::size_t at, std::uint64_t value) {
      for (std::size_t i = 0; i < 8; ++i) {
        bytes[at + i] = static_cast<char>(value >> (8 * i) & 0xff);
      }
    };
    store(sif::kTotalAt, kCopies + 3);
    store(sif::kTableOffsetAt, bytes.size());
    store(sif::kTableBytesAt, slots.size());
    bytes += slots;
    CHECK(verify_bytes(bytes, pem_material({"ed25519-public.pem"})).failure ==
          Failure::kTooManySignatures);
  }

  TEST_CASE("a signature that is linked to itself, or is in the group it signs, is no way in") {
    const Ring ring(public_keys());
    KeyMaterial material = pem_material({"ed25519-public.pem"});
    material.rings.push_back(ring.open());
    std::string bytes = file(kData + "one-group-signed-dsse.sif");
    const UniqueFd fd = memory_file(bytes);
    const std::size_t slot =
        static_cast<std::size_t>(sif::read(Fresh(fd.get()))->header().table_offset) +
        2 * sif::kDescriptorBytes;
    VerifyOptions legacy;
    legacy.legacy = true;
    legacy.objects = {3};
    std::fill_n(&bytes[slot + sif::kLinkAt], 4, '\0');
    bytes[slot + sif::kLinkAt] = 3;
    CHECK(verify_bytes(bytes, material).failure == Failure::kNoSignature);
    CHECK(verify_bytes(bytes, material, legacy).failure ==
          Failure::kNotValid);  // its text is no digest
    legacy.legacy = false;
    bytes[slot + sif::kGroupAt] = 1;
    CHECK(verify_bytes(bytes, material, legacy).failure == Failure::kNoSignature);
    std::fill_n(&bytes[slot + sif::kLinkAt], 4, '\0');
    bytes[slot + sif::kLinkAt] = 1;
    bytes[slot + sif::kLinkAt + 3] = static_cast<char>(0xf0);
    const VerifyReport report = verify_bytes(bytes, material);
    CHECK(report.failure == Failure::kNotSigned);
    CHECK(report.failed_object == 3);
  }

  TEST_CASE("numbers that name nothing are told apart") {
    const KeyMaterial material = pem_material({"ed25519-public.pem"});
    const std::string image = file(kData + "one-group-signed-dsse.sif");
    const auto failure = [&](std::vector<std::uint32_t> groups,
                             std::vector<std::uint32_t> objects) {
      VerifyOptions options;
      options.groups = std::move(groups);
      options.objects = std::move(objects);
      return verify_bytes(image, material, options).failure;
    };
    CHECK(failure({1}, {}) == Failure::kNone);
    CHECK(failure({1}, {1, 2}) == Failure::kNone);
    CHECK(failure({0}, {}) == Failure::kInvalidNumber);
    CHECK(failure({}, {0}) == Failure::kInvalidNumber);
    CHECK(failure({2}, {}) == Failure::kGroupNotFound);
    CHECK(failure({}, {9}) == Failure::kObjectNotFound);
    CHECK(failure({}, {3}) == Failure::kGroupNotFound);  // the signature itself is in no group
  }

  TEST_CASE("a signed envelope opens with its key alone, whatever the kind of key") {
    std::optional<signature::PublicKey> other;
    for (const std::string kind : {"ED25519", "P-256", "RSA"}) {
      CAPTURE(kind);
      EVP_PKEY* fresh_key = kind == "RSA"     ? EVP_RSA_gen(2048)
                            : kind == "P-256" ? fresh("EC", "P-256")
                                              : fresh("ED25519");
      const std::string pem = pem_of(fresh_key, Pem::kPrivate);
      const auto key = signature::PrivateKey::from_pem(pem, kind, {});
      REQUIRE(key);
      const auto text = signature::sign_envelope("payload", *key);
      REQUIRE(text);
      const auto envelope = signature::parse_envelope(*text);
      REQUIRE(envelope);
      CHECK(envelope->payload == "payload");
      const std::vector<signature::PublicKey> right = {key->public_key()};
      CHECK(signature::find_signer(*envelope, right) == &right[0]);
      if (other) {
        CHECK(signature::find_signer(*envelope, {*other}) == nullptr);
      }
      signature::Envelope changed = *envelope;
      changed.payload = "Payload";
      CHECK(signature::find_signer(changed, right) == nullptr);
      changed = *envelope;
      changed.signatures[0].key_id = "SHA256:other";
      CHECK(signature::find_signer(changed, right) == nullptr);
      changed.signatures[0].key_id.clear();
      CHECK(signature::find_signer(changed, right) != nullptr);
      other = key->public_key();
    }
  }

  TEST_CASE("the key id is what ssh-keygen prints, and keys that are too weak are refused") {
    CHECK(pem_material({"ed25519-public.pem"}).keys[0].ssh_id() ==
          "SHA256:x6l8ZblpSSXGaPMCzySedWg88BwIFcz8jlPb6el0mFs");
    CHECK(pem_material({"rsa-public.pem"}).keys[0].ssh_id() ==
          "SHA256:BhCwr7qZulYcOMSl2Jt2DuYHxHNnN6th4NdMqR/PGa4");
    const auto from = [](const std::string& pem) {
      return signature::PublicKey::from_pem(pem, "key");
    };
    CHECK_FALSE(from(pem_of(EVP_RSA_gen(1024), Pem::kPublic)));
    CHECK_FALSE(from(pem_of(fresh("EC", "P-384"), Pem::kPublic)));
    CHECK_FALSE(from(pem_of(fresh("ED448"), Pem::kPublic)));
    CHECK_FALSE(from(pem_of(fresh("ED25519"), Pem::kPrivate)));  // where a public one is asked for
    CHECK_FALSE(from("rubbish"));
    CHECK(from(pem_of(EVP_RSA_gen(2048), Pem::kPublic)));
    CHECK(from(pem_of(EVP_RSA_gen(2048), Pem::kRsaPublic)));
  }
}

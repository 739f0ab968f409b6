#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include <sys/stat.h>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <unistd.h>

#include "policy/ecl/facts.h"
#include "policy/seal/add.h"
#include "policy/sif/writer.h"
#include "policy/signature/base64.h"
#include "policy/signature/dsse.h"
#include "policy/signature/sign.h"
#include "protocol/base/unique_fd.h"

namespace {

namespace ecl = postern::ecl;
namespace seal = postern::seal;
namespace sif = postern::sif;
namespace signature = postern::signature;
using postern::Decision;
using postern::RefusalCode;
using postern::UniqueFd;

constexpr const char* kPgpSigner = "pgp:f34371d0acd5d09eb9bd853a80600a5fa11bbd29";

class Directory {
 public:
  Directory() { REQUIRE(::mkdtemp(path_.data()) != nullptr); }

  ~Directory() { std::filesystem::remove_all(path_); }

  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;

  [[nodiscard]] std::string operator/(const std::string& name) const { return path_ + "/" + name; }

  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_ = "/tmp/postern-facts-XXXXXX";
};

std::string text_of(BIO* bio) {
  char* text = nullptr;
  const long bytes = BIO_get_mem_data(bio, &text);
  std::string out(text, static_cast<std::size_t>(bytes));
  BIO_free(bio);
  return out;
}

// A fresh key and its public half as PEM.
struct KeyPair {
  signature::PrivateKey key;
  std::string public_pem;
};

KeyPair fresh_key() {
  EVP_PKEY* key = EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519");
  BIO* secret = BIO_new(BIO_s_mem());
  PEM_write_bio_PrivateKey(secret, key, nullptr, nullptr, 0, nullptr, nullptr);
  BIO* open = BIO_new(BIO_s_mem());
  PEM_write_bio_PUBKEY(open, key);
  EVP_PKEY_free(key);
  auto read = signature::PrivateKey::from_pem(text_of(secret), "test key", {});
  REQUIRE(read);
  return {*std::move(read), text_of(open)};
}

void make_image(const std::string& path, bool sealed) {
  auto writer = sif::Writer::create(path, {});
  REQUIRE(writer);
  sif::ObjectInput partition;
  partition.type = sif::DataType::kPartition;
  partition.extra = sif::PartitionInfo{
      sif::FileSystem::kSquashfs, sif::PartitionType::kPrimarySystem, sif::Architecture::kAmd64};
  REQUIRE(writer->add(partition, std::string(200 * 4096, 'p')));
  REQUIRE(writer->finish());
  if (sealed) {
    auto again = sif::Writer::open(path);
    REQUIRE(seal::add_seal(*again, again->descriptors()[0]));
    REQUIRE(again->finish());
  }
}

void sign(const std::string& path, const signature::PrivateKey& key) {
  std::vector<std::uint32_t> ids;
  std::string text;
  {
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    const auto image = sif::read(fd.get());
    for (const sif::Descriptor* object : image->group(1)) {
      ids.push_back(object->id);
    }
    const auto metadata = signature::metadata_of(*image, fd.get(), 1, ids);
    REQUIRE(metadata);
    text = *signature::sign_envelope(*metadata, key);
  }
  auto writer = sif::Writer::open(path);
  REQUIRE(writer);
  REQUIRE(writer->add(signature::signature_object(1, {}), text));
  REQUIRE(writer->finish());
}

void flip(const std::string& path, std::int64_t at) {
  const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  char byte = 0;
  REQUIRE(::pread(fd.get(), &byte, 1, at) == 1);
  byte = static_cast<char>(byte ^ 1);
  REQUIRE(::pwrite(fd.get(), &byte, 1, at) == 1);
}

std::int64_t offset_of(const std::string& path, std::size_t slot) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  return sif::read(fd.get())->descriptors().at(slot).offset;
}

ecl::Gathered gather(const std::string& path,
                     const signature::KeyMaterial& keys,
                     std::uint64_t* hashed = nullptr) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  const auto image = sif::read(fd.get());
  REQUIRE(image);
  ecl::GatherOptions options;
  options.threads = 1;
  options.mounts = postern::config::MountTable::read();
  options.progress = [&](std::uint64_t bytes) { *(hashed != nullptr ? hashed : &bytes) += bytes; };
  return ecl::gather(*image, fd.get(), keys, options);
}

signature::KeyMaterial keyring(const Directory& directory,
                               const std::string& pem,
                               bool in_child = false) {
  std::filesystem::create_directory(directory / "pem");
  std::ofstream(directory / "pem/site.pem") << pem;
  auto keys = ecl::load_keyring(directory.path(), ecl::KeyringOwner::kWhoever, in_child);
  REQUIRE(keys);
  return *std::move(keys);
}

}  // namespace

TEST_SUITE("ecl facts") {
  TEST_CASE("a sealed image is admitted without reading its partition, and only as sealed") {
    const Directory directory;
    const KeyPair pair = fresh_key();
    const std::string path = directory / "image.sif";
    make_image(path, true);
    sign(path, pair.key);
    const signature::KeyMaterial keys = keyring(directory, pair.public_pem);
    std::uint64_t hashed = 0;
    ecl::Gathered got = gather(path, keys, &hashed);
    CHECK(got.facts.problem == "");
    CHECK(got.facts.problem_code == RefusalCode::kNone);
    CHECK(got.facts.any_valid);
    CHECK(got.facts.binding == ecl::Binding::kSealed);
    CHECK(got.facts.valid == pair.key.public_key().identities());
    REQUIRE(got.seal);
    CHECK(got.seal->geometry.data_blocks == 200);
    CHECK(hashed < 1000);  // the seal's text: neither partition nor tree
    // Data and tree are checked as they are read; what binds them is checked now.
    flip(path, offset_of(path, 0));
    flip(path, offset_of(path, 1) + 4096);
    CHECK(gather(path, keys).facts.binding == ecl::Binding::kSealed);
    flip(path, offset_of(path, 2) + 40);
    got = gather(path, keys);
    CHECK(got.facts.problem_code != RefusalCode::kNone);
    CHECK_FALSE(got.facts.any_valid);
    CHECK(got.facts.binding == ecl::Binding::kHash);
  }

  TEST_CASE("a seal that the signature does not cover binds nothing") {
    const Directory directory;
    const KeyPair pair = fresh_key();
    const std::string path = directory / "image.sif";
    make_image(path, false);
    sign(path, pair.key);
    auto writer = sif::Writer::open(path);
    REQUIRE(seal::add_seal(*writer, writer->descriptors()[0]));
    REQUIRE(writer->finish());
    const ecl::Gathered got = gather(path, keyring(directory, pair.public_pem));
    CHECK(got.facts.problem_code == RefusalCode::kEclSignature);
    CHECK(got.facts.problem.find("is not signed") != std::string::npos);
  }

  TEST_CASE("without a seal everything is hashed, and one changed byte refuses") {
    const Directory directory;
    const KeyPair pair = fresh_key();
    const std::string path = directory / "image.sif";
    make_image(path, false);
    sign(path, pair.key);
    const signature::KeyMaterial keys = keyring(directory, pair.public_pem);
    std::uint64_t hashed = 0;
    ::chmod(path.c_str(), 0755);
    const ecl::Gathered good = gather(path, keys, &hashed);
    CHECK(good.facts.problem_code == RefusalCode::kNone);
    CHECK(hashed == 200 * 4096);
    CHECK((good.facts.binding == ecl::Binding::kUnwritable) == (::geteuid() == 0));
    ::chmod(path.c_str(), 0775);
    CHECK(gather(path, keys).facts.binding == ecl::Binding::kHash);
    ::chmod(path.c_str(), 0757);
    CHECK(gather(path, keys).facts.binding == ecl::Binding::kHash);
    flip(path, offset_of(path, 0) + 100);
    CHECK(gather(path, keys).facts.problem_code == RefusalCode::kEclSignature);
  }

  TEST_CASE("unsigned, unknown and malformed are told apart") {
    const Directory directory;
    const KeyPair pair = fresh_key();
    const KeyPair stranger = fresh_key();
    const std::string path = directory / "image.sif";
    make_image(path, true);
    const signature::KeyMaterial keys = keyring(directory, pair.public_pem);
    CHECK(gather(path, keys).facts.problem_code == RefusalCode::kEclUnsigned);
    sign(path, stranger.key);
    const ecl::Gathered unknown = gather(path, keys);
    CHECK(unknown.facts.problem_code == RefusalCode::kNone);
    CHECK_FALSE(unknown.facts.any_valid);
    CHECK(unknown.facts.valid.empty());
    CHECK(unknown.facts.binding == ecl::Binding::kHash);  // nobody known signed the seal
    make_image(path, true);
    sign(path, pair.key);
    flip(path, offset_of(path, 1) + 100);  // the superblock
    CHECK(gather(path, keys).facts.problem_code == RefusalCode::kSeal);
    CHECK(gather(POSTERN_TEST_DATA "/images/one-group.sif", keys).facts.problem_code ==
          RefusalCode::kEclUnsigned);
  }

  TEST_CASE("OpenPGP signatures are checked in a process of its own that leaves nothing") {
    const Directory directory;
    std::ofstream(directory / "gpg.conf") << signature::keyring_options();
    std::string armor;
    {
      std::ifstream in(POSTERN_TEST_DATA "/images/keys/pgp-public.asc");
      for (std::string line; std::getline(in, line) && !line.empty();) {
      }
      for (std::string line; std::getline(in, line) && line[0] != '=' && line[0] != '-';) {
        armor += line;
      }
    }
    const auto bytes = signature::decode_base64(armor);
    REQUIRE(bytes);
    // SAFETY: char and unsigned char have the same representation.
    std::ofstream(directory / "pubring.gpg", std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes->data()),
               static_cast<std::streamsize>(bytes->size()));
    ::chmod(directory.path().c_str(), 0555);
    for (const bool in_child : {false, true}) {
      auto keys = ecl::load_keyring(directory.path(), ecl::KeyringOwner::kWhoever, in_child);
      REQUIRE(keys);
      CHECK((keys->rings[0].channel() >= 0) == in_child);
      const UniqueFd fd(
          ::open(POSTERN_TEST_DATA "/images/one-group-signed-pgp.sif", O_RDONLY | O_CLOEXEC));
      const auto image = sif::read(fd.get());
      for (int round = 0; round < 2; ++round) {
        const signature::VerifyReport report = signature::verify(*image, fd.get(), {}, *keys);
        CHECK(report.problem.what == "");
        CHECK(report.valid_all == std::vector<std::string>{kPgpSigner});
      }
    }
    CHECK(std::distance(std::filesystem::directory_iterator(directory.path()), {}) == 2);
    ::chmod(directory.path().c_str(), 0755);
  }

  TEST_CASE("a keyring that others may write, or that is incomplete, is an error") {
    const Directory directory;
    const auto load = [&](ecl::KeyringOwner owner) {
      return ecl::load_keyring(directory.path(), owner, false).has_value();
    };
    CHECK(load(ecl::KeyringOwner::kWhoever));  // empty: every signature is unknown
    {
      const auto keys = ecl::load_keyring(directory.path(), ecl::KeyringOwner::kWhoever, true);
      const UniqueFd fd(
          ::open(POSTERN_TEST_DATA "/images/one-group-signed-pgp.sif", O_RDONLY | O_CLOEXEC));
      const signature::VerifyReport report =
          signature::verify(*sif::read(fd.get()), fd.get(), {}, *keys);
      CHECK(report.failure == signature::Failure::kNotValid);
      CHECK(report.problem.what.find("unknown signer") != std::string::npos);
      CHECK(std::filesystem::is_empty(directory.path()));  // and GnuPG has written nothing
    }
    std::ofstream(directory / "pubring.gpg") << "";
    CHECK_FALSE(load(ecl::KeyringOwner::kWhoever));  // GnuPG would write lock files
    std::ofstream(directory / "gpg.conf") << signature::keyring_options();
    CHECK(load(ecl::KeyringOwner::kWhoever));
    CHECK_FALSE(load(ecl::KeyringOwner::kRoot));  // /tmp is everybody's
    std::ofstream(directory / "pubring.kbx") << "";
    CHECK_FALSE(load(ecl::KeyringOwner::kWhoever));
    std::filesystem::remove(directory / "pubring.kbx");
    std::filesystem::create_directory(directory / "pem");
    std::ofstream(directory / "pem/x.pem") << "rubbish";
    CHECK_FALSE(load(ecl::KeyringOwner::kWhoever));
  }

  TEST_CASE("an image is in a directory when that directory holds it, whatever its path says") {
    const Directory directory;
    std::filesystem::create_directory(directory / "images");
    std::filesystem::create_directory(directory / "images2");
    std::ofstream(directory / "images/a.sif") << "a";
    std::ofstream(directory / "images2/a.sif") << "another";
    ecl::EclConfig config;
    ecl::Group group;
    group.directory = directory / "images";
    config.groups.push_back(group);
    const auto where = [&](const std::string& path) {
      const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
      return ecl::locate(config, fd.get());
    };
    CHECK(where(directory / "images/a.sif") == directory / "images");
    CHECK(where(directory / "images2/a.sif") == "");  // same name, sibling with the same prefix
    CHECK(where(directory / "images2/../images/a.sif") == directory / "images");
    std::filesystem::create_symlink("a.sif", directory / "images/link.sif");
    CHECK(where(directory / "images/link.sif") ==
          directory / "images");  // resolved: a.sif lies there
    std::filesystem::create_symlink(directory / "images2/a.sif", directory / "images/b.sif");
    CHECK(where(directory / "images/b.sif") == "");  // a link in it to a file elsewhere
    const UniqueFd gone(::open((directory / "images/a.sif").c_str(), O_RDONLY | O_CLOEXEC));
    std::filesystem::rename(directory / "images2/a.sif", directory / "images/a.sif");
    CHECK(ecl::locate(config, gone.get()) == "");  // replaced after it was opened
  }
}

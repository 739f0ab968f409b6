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

#include "policy/config/unwritable.h"
#include "policy/ecl/facts.h"
#include "policy/seal/add.h"
#include "policy/sif/writer.h"
#include "policy/signature/compile_table.h"
#include "policy/signature/dsse.h"
#include "policy/signature/gnupg_ring.h"
#include "policy/signature/sign.h"
#include "policy/text/base64.h"
#include "protocol/base/unique_fd.h"
#include "tests/unit/fresh.h"

namespace {

namespace ecl = postern::ecl;
namespace seal = postern::seal;
namespace sif = postern::sif;
namespace signature = postern::signature;
using postern::Decision;
using postern::Fresh;
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
    const auto image = sif::read(Fresh(fd.get()));
    for (const sif::Descriptor* object : image->group(1)) {
      ids.push_back(object->id);
    }
    const auto metadata = signature::metadata_of(*image, Fresh(fd.get()), 1, ids);
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
  return sif::read(Fresh(fd.get()))->descriptors().at(slot).offset;
}

ecl::Gathered gather(const std::string& path,
                     const signature::KeyMaterial& keys,
                     std::uint64_t* hashed = nullptr) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  const auto image = sif::read(Fresh(fd.get()));
  REQUIRE(image);
  ecl::GatherOptions options;
  options.threads = 1;
  options.unwritable =
      postern::config::is_unwritable(fd.get(), postern::config::MountTable::read());
  options.progress = [&](std::uint64_t bytes) { *(hashed != nullptr ? hashed : &bytes) += bytes; };
  return ecl::gather(*image, Fresh(fd.get()), keys, options);
}

signature::KeyMaterial keyring(const Directory& directory, const std::string& pem) {
  std::filesystem::create_directory(directory / "pem");
  std::ofstream(directory / "pem/site.pem") << pem;
  auto keys = ecl::load_keyring(directory.path(), ecl::KeyringOwner::kWhoever);
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

  // The ring of tests/data, and its table if there is one to be.
  void write_ring(const Directory& directory) {
    std::string armor;
    {
      std::ifstream in(POSTERN_TEST_DATA "/images/keys/pgp-public.asc");
      for (std::string line; std::getline(in, line) && !line.empty();) {
      }
      for (std::string line; std::getline(in, line) && line[0] != '=' && line[0] != '-';) {
        armor += line;
      }
    }
    const auto bytes = postern::text::decode_base64(armor);
    REQUIRE(bytes);
    std::ofstream(directory / "gpg.conf") << signature::keyring_options();
    std::ofstream(directory / "pubring.gpg", std::ios::binary)
        << std::string(bytes->begin(), bytes->end());
  }

  void compile_ring(const Directory& directory) {
    std::ifstream in(directory / "pubring.gpg", std::ios::binary);
    const std::string ring{std::istreambuf_iterator<char>(in), {}};
    const auto compiled = signature::compile_table(directory.path(), ring);
    REQUIRE(compiled);
    std::ofstream(directory / "pubring.table") << signature::write_table(compiled->table);
  }

  TEST_CASE("OpenPGP signatures are checked against the compiled keyring") {
    const Directory directory;
    write_ring(directory);
    compile_ring(directory);
    const auto keys = ecl::load_keyring(directory.path(), ecl::KeyringOwner::kWhoever);
    REQUIRE(keys);
    const UniqueFd fd(
        ::open(POSTERN_TEST_DATA "/images/one-group-signed-pgp.sif", O_RDONLY | O_CLOEXEC));
    const auto image = sif::read(Fresh(fd.get()));
    const signature::VerifyReport report = signature::verify(*image, Fresh(fd.get()), {}, *keys);
    CHECK(report.problem.what == "");
    CHECK(report.valid_all == std::vector<std::string>{kPgpSigner});
  }

  TEST_CASE("a keyring that others may write, or that is not what was compiled, is an error") {
    const Directory directory;
    const auto load = [&](ecl::KeyringOwner owner = ecl::KeyringOwner::kWhoever) {
      auto keys = ecl::load_keyring(directory.path(), owner);
      return keys ? std::string() : keys.error().problem.what + "; " + keys.error().problem.cure;
    };
    const auto says = [&](std::string_view words) {
      return load().find(words) != std::string::npos;
    };
    CHECK(load() == "");  // empty: every signature is unknown
    write_ring(directory);
    CHECK(says("has not been compiled"));
    CHECK(says("postern key import --global " + (directory / "pubring.gpg")));
    compile_ring(directory);
    CHECK(load() == "");
    CHECK(load(ecl::KeyringOwner::kRoot) != "");  // /tmp is everybody's
    std::ofstream(directory / "pubring.gpg", std::ios::app) << "x";
    CHECK(says("was changed after it was compiled"));
    write_ring(directory);
    CHECK(load() == "");
    std::filesystem::remove(directory / "pubring.gpg");
    CHECK(says("is missing"));
    write_ring(directory);
    std::ofstream(directory / "pubring.table", std::ios::app) << "key\n";
    CHECK(says("pubring.table:"));
    compile_ring(directory);
    std::ofstream(directory / "pubring.kbx") << "";
    CHECK(says("was written by GnuPG"));
    std::filesystem::remove(directory / "pubring.kbx");
    CHECK(load() == "");
    std::filesystem::create_directory(directory / "pem");
    std::ofstream(directory / "pem/x.pem") << "rubbish";
    CHECK(says("pem/x.pem"));
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

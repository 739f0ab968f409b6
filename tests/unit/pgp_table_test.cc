// The compiled keyring says what GnuPG says, key by key.
#include "policy/signature/pgp_table.h"

#include <array>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <sys/wait.h>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include "policy/signature/clear_sign.h"
#include "policy/signature/compile_table.h"
#include "policy/signature/gnupg_ring.h"
#include "policy/text/hex.h"

namespace postern::signature {
namespace {

std::string whole(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// A GnuPG home with a program to run in it.
class Home {
 public:
  Home() {
    REQUIRE(::mkdtemp(path_.data()) != nullptr);
    std::ofstream(path_ + "/gpg.conf") << "pinentry-mode loopback\n";
  }

  Home(const Home&) = delete;
  Home& operator=(const Home&) = delete;

  ~Home() {
    (void)run({"gpgconf", "--homedir", path_, "--kill", "all"});
    // The agent removes its sockets while it ends.
    std::error_code failed;
    for (int tries = 0; tries < 100 && std::filesystem::exists(path_); ++tries) {
      std::filesystem::remove_all(path_, failed);
    }
  }

  [[nodiscard]] const std::string& path() const { return path_; }

  // Of the program: exit status. What it prints is in the file "out".
  [[nodiscard]] int run(std::vector<std::string> words) const {
    const pid_t pid = ::fork();
    if (pid == 0) {
      const int out = ::open((path_ + "/out").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
      ::dup2(out, 1);
      ::dup2(out, 2);
      std::vector<char*> argv;
      for (std::string& word : words) {
        argv.push_back(word.data());
      }
      argv.push_back(nullptr);
      ::execvp(argv[0], argv.data());
      ::_exit(98);
    }
    int status = -1;
    ::waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 99;
  }

  [[nodiscard]] int gpg(std::vector<std::string> more) const {
    std::vector<std::string> words = {"gpg",   "--homedir",    path_, "--batch",
                                      "--yes", "--passphrase", ""};
    words.insert(words.end(), more.begin(), more.end());
    return run(words);
  }

  // Makes a key; `at` is GnuPG's faked time, empty: now. Returns its fingerprint.
  [[nodiscard]] std::string key(const std::string& user,
                                const std::string& algorithm,
                                const std::string& usage,
                                const std::string& expires,
                                const std::string& at = {}) const {
    std::vector<std::string> words;
    if (!at.empty()) {
      words = {"--faked-system-time", at};
    }
    words.insert(words.end(), {"--quick-gen-key", user, algorithm, usage, expires});
    REQUIRE_MESSAGE(gpg(words) == 0, whole(path_ + "/out"));
    return fingerprint(user, 0);
  }

  // Of the n-th key of this user: 0 the primary key.
  [[nodiscard]] std::string fingerprint(const std::string& user, std::size_t n) const {
    REQUIRE(gpg({"--with-colons", "--list-keys", user}) == 0);
    const std::string list = whole(path_ + "/out");
    std::size_t at = 0;
    for (std::size_t i = 0; i <= n; ++i) {
      at = list.find("\nfpr:", at + 1);
      REQUIRE(at != std::string::npos);
    }
    return list.substr(at + 13, 40);
  }

  [[nodiscard]] ClearSigned sign(const std::string& with,
                                 const std::string& hash = "SHA512",
                                 const std::string& at = {}) const {
    std::ofstream(path_ + "/text") << "{\"version\":1}\n- a dash, and trailing blanks  \n\nend";
    std::vector<std::string> words = {"--local-user", with + "!",        "--digest-algo", hash,
                                      "--output",     path_ + "/signed", "--clearsign"};
    if (!at.empty()) {
      words.insert(words.begin(), {"--faked-system-time", at});
    }
    words.push_back(path_ + "/text");
    REQUIRE_MESSAGE(gpg(words) == 0, whole(path_ + "/out"));
    auto message = parse_clear_signed(whole(path_ + "/signed"));
    REQUIRE(message);
    return *std::move(message);
  }

  [[nodiscard]] std::string ring() const {
    REQUIRE(gpg({"--output", path_ + "/ring", "--export"}) == 0);
    return whole(path_ + "/ring");
  }

 private:
  std::string path_ = "/tmp/postern-table-XXXXXX";
};

// A keyring as `key import --global` leaves it, and both readers of it.
struct Rings {
  explicit Rings(const std::string& keys) {
    REQUIRE(::mkdtemp(path.data()) != nullptr);
    std::ofstream(path + "/gpg.conf") << keyring_options();
    std::ofstream(path + "/pubring.gpg", std::ios::binary) << keys;
    auto made = compile_table(path, keys);
    REQUIRE(made);
    compiled = *std::move(made);
    // What is read is what was written.
    auto read = parse_table(write_table(compiled.table));
    REQUIRE(read);
    table = std::make_unique<TableRing>(*std::move(read));
    auto opened = GnupgRing::open(path, KeyOrigin::kGlobal);
    REQUIRE(opened);
    gnupg = *std::move(opened);
  }

  Rings(const Rings&) = delete;
  Rings& operator=(const Rings&) = delete;

  ~Rings() { std::filesystem::remove_all(path); }

  // Both say this.
  void agree(const ClearSigned& message, PgpCheck::Result wanted, const std::string& signer = {}) {
    const auto ours = table->check(message);
    const auto theirs = gnupg->check(message);
    REQUIRE(ours);
    REQUIRE(theirs);
    CHECK_MESSAGE(ours->result == wanted, ours->why);
    CHECK_MESSAGE(theirs->result == wanted, theirs->why);
    if (wanted == PgpCheck::Result::kGood) {
      CHECK(ours->signer.fingerprint == theirs->signer.fingerprint);
      CHECK(ours->signer.name == theirs->signer.name);
      std::string lower = signer;
      for (char& c : lower) {
        c = c >= 'A' && c <= 'F' ? static_cast<char>(c - 'A' + 'a') : c;
      }
      CHECK(ours->signer.fingerprint == lower);
    }
  }

  std::string path = "/tmp/postern-rings-XXXXXX";
  Compiled compiled;
  std::unique_ptr<TableRing> table;
  std::unique_ptr<GnupgRing> gnupg;
};

constexpr auto kGood = PgpCheck::Result::kGood;
constexpr auto kBad = PgpCheck::Result::kBad;
constexpr auto kUnknown = PgpCheck::Result::kUnknownKey;

ClearSigned spoiled(ClearSigned message) {
  message.signed_bytes += "x";
  return message;
}

}  // namespace

TEST_SUITE("pgp table") {
  TEST_CASE("kinds of keys and hashes: the table and GnuPG agree") {
    const Home home;

    struct Row {
      const char* algorithm;
      std::vector<std::string> hashes;
    };

    const std::vector<Row> rows = {{"rsa2048", {"SHA256", "SHA384", "SHA512", "SHA224"}},
                                   {"rsa3072", {"SHA256"}},
                                   {"ed25519", {"SHA256", "SHA512"}},
                                   {"nistp256", {"SHA256", "SHA512"}},
                                   {"nistp384", {"SHA384", "SHA512"}},
                                   {"nistp521", {"SHA512"}},
                                   {"brainpoolP256r1", {"SHA256"}},
                                   {"brainpoolP512r1", {"SHA512"}}};

    struct Made {
      std::string fingerprint;
      ClearSigned message;
    };

    std::vector<Made> made;
    for (const Row& row : rows) {
      const std::string user = std::string(row.algorithm) + " <" + row.algorithm + "@example.org>";
      const std::string fingerprint = home.key(user, row.algorithm, "sign", "never");
      for (const std::string& hash : row.hashes) {
        made.push_back({fingerprint, home.sign(fingerprint, hash)});
      }
    }
    const std::string dsa = home.key("dsa <dsa@example.org>", "dsa2048", "sign", "never");
    const ClearSigned by_dsa = home.sign(dsa, "SHA256");
    Rings rings(home.ring());
    for (const Made& one : made) {
      rings.agree(one.message, kGood, one.fingerprint);
      rings.agree(spoiled(one.message), kBad);
    }
    // The one kind that GnuPG signs with and the table does not know is said at import.
    REQUIRE(rings.compiled.left_out.size() == 1);
    CHECK(rings.compiled.left_out[0].find("unsupported kind (number 17)") != std::string::npos);
    CHECK(rings.table->check(by_dsa)->result == kBad);
    Rings none("");
    none.agree(made[0].message, kUnknown);
  }

  TEST_CASE("SHA-1 and MD5 are refused, whatever the key") {
    const Home home;
    const std::string key = home.key("old <old@example.org>", "rsa2048", "sign", "never");
    const ClearSigned sha1 = home.sign(key, "SHA1");
    Rings rings(home.ring());
    rings.agree(sha1, kBad);
    CHECK(rings.table->check(sha1)->why.find("weak or unknown hash") != std::string::npos);
  }

  TEST_CASE("subkeys: which may sign, until when, and only with the key's word back") {
    const Home home;
    const std::string user = "sub <sub@example.org>";
    const std::string primary = home.key(user, "ed25519", "cert", "never", "20240101T000000!");
    REQUIRE(home.gpg({"--faked-system-time", "20240102T000000!", "--quick-add-key", primary,
                      "ed25519", "sign", "never"}) == 0);
    REQUIRE(home.gpg({"--faked-system-time", "20240103T000000!", "--quick-add-key", primary,
                      "rsa2048", "sign", "20240301T000000"}) == 0);
    REQUIRE(home.gpg({"--quick-add-key", primary, "ed25519", "sign", "never"}) == 0);
    const std::string good = home.fingerprint(user, 1);
    const std::string expired = home.fingerprint(user, 2);
    const std::string revoked = home.fingerprint(user, 3);
    const ClearSigned by_good = home.sign(good);
    const ClearSigned by_expired = home.sign(expired, "SHA256", "20240201T000000!");
    const ClearSigned by_revoked = home.sign(revoked);
    {
      Rings before(home.ring());
      before.agree(by_good, kGood, primary);
      before.agree(by_revoked, kGood, primary);
      before.agree(by_expired, kBad);
    }
    // `revkey` of the last subkey, as a person would type it.
    std::ofstream(home.path() + "/commands") << "key 3\nrevkey\ny\n0\n\ny\nsave\n";
    REQUIRE(home.run({"sh", "-c",
                      "gpg --homedir " + home.path() +
                          " --command-fd 0 --no-tty --passphrase '' "
                          "--edit-key " +
                          primary + " < " + home.path() + "/commands"}) == 0);
    Rings rings(home.ring());
    rings.agree(by_good, kGood, primary);
    rings.agree(by_revoked, kBad);
    CHECK(rings.table->check(by_expired)->why ==
          "the signer's subkey is expired, revoked or invalid");
    // A table that says that the subkey did not sign back refuses.
    PgpTable changed = rings.compiled.table;
    for (PgpPart& part : changed.keys[0].parts) {
      CHECK_FALSE(part.uncertified);
      part.uncertified = true;
    }
    CHECK(TableRing(changed).check(by_good)->result == kBad);
  }

  TEST_CASE("a subkey that somebody else's key claims is not its own") {
    const Home victim;
    const std::string owner = victim.key("owner <o@example.org>", "ed25519", "cert", "never");
    REQUIRE(victim.gpg({"--quick-add-key", owner, "ed25519", "sign", "never"}) == 0);
    const Home thief;
    const std::string taker = thief.key("thief <t@example.org>", "ed25519", "cert", "never");
    REQUIRE(thief.gpg({"--quick-add-key", taker, "ed25519", "sign", "never"}) == 0);
    Rings mine(victim.ring());
    Rings theirs(thief.ring());
    const PgpPart& stolen = mine.compiled.table.keys[0].parts[1];
    const PgpPart& robber = theirs.compiled.table.keys[0].parts[0];
    // The back signature of the stolen subkey names the victim's primary key.
    const auto packets = [](const std::string& ring) {
      std::vector<std::vector<std::uint8_t>> out;
      // SAFETY: any object may be read as bytes.
      PacketBytes rest(reinterpret_cast<const std::uint8_t*>(ring.data()), ring.size());
      while (!rest.empty()) {
        const auto packet = take_packet(rest);
        REQUIRE(packet);
        if (PacketTag{packet->tag} == PacketTag::kSignature) {
          out.emplace_back(packet->body.begin(), packet->body.end());
        }
      }
      return out;
    };
    const auto held = packets(victim.ring());
    const std::vector<PacketBytes> signatures(held.begin(), held.end());
    CHECK(signs_back(mine.compiled.table.keys[0].parts[0], stolen, signatures));
    CHECK_FALSE(signs_back(robber, stolen, signatures));
  }

  TEST_CASE("several user ids, an expired key, a revoked key, a revoked user id") {
    const Home home;
    const std::string several = home.key("first <a@example.org>", "ed25519", "sign", "never");
    REQUIRE(home.gpg({"--quick-add-uid", several, "second <b@example.org>"}) == 0);
    REQUIRE(home.gpg({"--quick-set-primary-uid", several, "second <b@example.org>"}) == 0);
    const std::string expired =
        home.key("gone <c@example.org>", "rsa2048", "sign", "20240301T000000", "20240101T000000!");
    const std::string revoked = home.key("taken <d@example.org>", "nistp256", "sign", "never");
    const std::string other = home.key("keeps <e@example.org>", "ed25519", "sign", "never");
    const std::array messages = {home.sign(several),
                                 home.sign(expired, "SHA256", "20240201T000000!"),
                                 home.sign(revoked, "SHA256"), home.sign(other)};
    {
      Rings before(home.ring());
      before.agree(messages[0], kGood, several);
      CHECK(before.table->check(messages[0])->signer.name == "second <b@example.org>");
      before.agree(messages[1], kBad);
      before.agree(messages[2], kGood, revoked);
      before.agree(messages[3], kGood, other);
    }
    const std::string certificate = home.path() + "/openpgp-revocs.d/" + revoked + ".rev";
    std::string text = whole(certificate);
    text.erase(text.find(":-----BEGIN"), 1);
    std::ofstream(home.path() + "/revocation") << text;
    REQUIRE_MESSAGE(home.gpg({"--import", home.path() + "/revocation"}) == 0,
                    whole(home.path() + "/out"));
    REQUIRE(home.gpg({"--quick-add-uid", other, "new <f@example.org>"}) == 0);
    REQUIRE(home.gpg({"--quick-revoke-uid", other, "keeps <e@example.org>"}) == 0);
    Rings rings(home.ring());
    rings.agree(messages[2], kBad);
    rings.agree(messages[3], kGood, other);  // another user id is left, and is the primary one
    CHECK(rings.table->check(messages[3])->signer.name == "new <f@example.org>");
  }

  TEST_CASE("times: signatures that expire, from the future, older than their key") {
    const Home home;
    const std::string key =
        home.key("time <t@example.org>", "ed25519", "sign", "never", "20240101T000000!");
    const ClearSigned future = home.sign(key, "SHA512", "20370101T000000!");
    const ClearSigned good = home.sign(key);
    REQUIRE(home.gpg({"--faked-system-time", "20240201T000000!", "--default-sig-expire", "1m",
                      "--local-user", key, "--output", home.path() + "/short", "--clearsign",
                      home.path() + "/text"}) == 0);
    const auto expired = parse_clear_signed(whole(home.path() + "/short"));
    REQUIRE(expired);
    Rings rings(home.ring());
    rings.agree(good, kGood, key);
    rings.agree(future, kBad);
    rings.agree(*expired, kBad);
    const TableRing long_ago(rings.compiled.table, [] { return std::int64_t{1'600'000'000}; });
    CHECK(long_ago.check(good)->result == kBad);
  }

  TEST_CASE("version 6 is recognised and refused in words") {
    // Of RFC 9580, A.3: the first bytes of the sample certificate.
    const std::string armored =
        "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n"
        "xioGY4d/4xsAAAAg+U2nu0jWCmHlZ3BqZYfQMxmZu52JGggkLq2EVD34laPCsQYf\n"
        "-----END PGP PUBLIC KEY BLOCK-----\n";
    const auto version6 = check_key_version(armored);
    REQUIRE_FALSE(version6);
    CHECK(version6.error().what ==
          "the key is of OpenPGP version 6, and only version 4 is supported");
    CHECK(check_key_version("rubbish"));
    std::vector<std::uint8_t> six = {0xC2, 20, 6, 1, 27, 10};
    six.resize(22);
    ClearSigned message;
    message.packets = six;
    const auto refused = parse_signature_packet(message);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().what.find("a signature of version 6") != std::string::npos);
  }

  TEST_CASE("a table that is not one is an error with a line") {
    PgpTable table;
    table.ring_sha256 = std::string(64, 'a');
    PgpKey key;
    key.name = "name with blanks % and \n";
    PgpPart part;
    part.may_sign = true;
    part.expires = 5;
    part.packet = {4, 0, 0, 0, 1, 22, 9, 9, 9};
    key.parts = {part};
    key.fingerprint = parse_key_body(part.packet)->fingerprint;
    table.keys = {key};
    const std::string text = write_table(table);
    const auto again = parse_table(text);
    REQUIRE(again);
    CHECK(write_table(*again) == text);
    CHECK(again->keys[0].name == key.name);
    for (std::size_t size = 0; size < text.size(); ++size) {
      CAPTURE(size);
      const auto cut = parse_table(text.substr(0, size));
      CHECK((!cut || cut->keys.size() < 1));
    }
    for (const std::string bad : {"postern-keyring 2\n", "postern-keyring 1\npart sign 0 04\n",
                                  "postern-keyring 1\nring zz\n", "rubbish"}) {
      CHECK_FALSE(parse_table(bad));
    }
    CHECK(parse_table(text + "key 00 odd x\n").error().what.find("pubring.table:5:") == 0);
  }
}

}  // namespace postern::signature

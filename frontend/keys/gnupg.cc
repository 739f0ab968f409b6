#include "frontend/keys/gnupg.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <climits>
#include <cstdlib>
#include <utility>

#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <fcntl.h>
#include <gpgme.h>
#include <poll.h>
#include <unistd.h>

#include "frontend/message/message.h"
#include "frontend/system/replace_file.h"
#include "frontend/system/spawn.h"
#include "policy/signature/gnupg_ring.h"
#include "protocol/exit_codes.h"

namespace postern::keys {
namespace {

constexpr std::string_view kLocalOptions =
    "# Written by postern. One keyring without a web of trust: what you import you trust.\n"
    "trust-model always\n"
    "no-auto-check-trustdb\n"
    "no-auto-key-retrieve\n"
    "no-permission-warning\n"
    "no-greeting\n"
    "lock-never\n"  // ours is flock(2), which ends with its process, on another host too
    "personal-digest-preferences SHA256 SHA384 SHA512\n"
    "cert-digest-algo SHA384\n";
constexpr std::string_view kAgentOptions =
    "# Written by postern. The agent lives for one command and remembers nothing.\n"
    "allow-loopback-pinentry\n"
    "default-cache-ttl 0\n"
    "max-cache-ttl 0\n";

Problem gpg_problem(const std::string& doing, gpgme_error_t error) {
  std::array<char, 256> words{};
  gpgme_strerror_r(error, words.data(), words.size());
  std::string cure;
  if (gpgme_err_code(error) == GPG_ERR_BAD_PASSPHRASE) {
    cure = "check the passphrase of the key";
  }
  return Problem{doing + ": GnuPG: " + words.data(), cure};
}

class Data {
 public:
  Data() { gpgme_data_new(&data_); }

  explicit Data(const std::string& bytes) {
    gpgme_data_new_from_mem(&data_, bytes.data(), bytes.size(), 1);
  }

  ~Data() {
    if (data_ != nullptr) {
      gpgme_data_release(data_);
    }
  }

  Data(const Data&) = delete;
  Data& operator=(const Data&) = delete;

  [[nodiscard]] gpgme_data_t get() const { return data_; }

  std::string take() {
    std::size_t size = 0;
    char* bytes = gpgme_data_release_and_get_mem(data_, &size);
    data_ = nullptr;
    std::string out(bytes != nullptr ? bytes : "", bytes != nullptr ? size : 0);
    gpgme_free(bytes);
    return out;
  }

 private:
  gpgme_data_t data_ = nullptr;
};

struct KeyRelease {
  void operator()(gpgme_key_t key) const { gpgme_key_unref(key); }
};

using Key = std::unique_ptr<_gpgme_key, KeyRelease>;

Outcome<Key> find_key(gpgme_ctx_t context, const std::string& fingerprint, bool secret) {
  gpgme_key_t key = nullptr;
  const gpgme_error_t error = gpgme_get_key(context, fingerprint.c_str(), &key, secret ? 1 : 0);
  if (gpgme_err_code(error) == GPG_ERR_EOF || gpgme_err_code(error) == GPG_ERR_NOT_FOUND) {
    return Problem{std::string("no ") + (secret ? "secret" : "public") + " key " + fingerprint +
                       " in the keyring",
                   "'postern key list' shows the keys"};
  }
  if (error != 0) {
    return gpg_problem("looking up key " + fingerprint, error);
  }
  return Key(key);
}

KeyInfo info_of(const _gpgme_key& key) {
  KeyInfo out;
  out.fingerprint = key.subkeys->fpr != nullptr ? key.subkeys->fpr : "";
  out.user = key.uids != nullptr && key.uids->uid != nullptr ? key.uids->uid : "unknown";
  out.created = key.subkeys->timestamp;
  out.expires = key.subkeys->expires;
  out.bits = key.subkeys->length;
  out.usable = key.revoked == 0 && key.expired == 0 && key.disabled == 0 && key.invalid == 0;
  return out;
}

// gpgme's passphrase callback.
struct Asker {
  const PassphraseSource& source;
  bool gave_up = false;
};

gpgme_error_t give_passphrase(
    void* hook, const char* hint, const char* /*info*/, int previous_bad, int fd) {
  auto* asker = static_cast<Asker*>(hook);
  const auto answer =
      asker->source ? asker->source(hint != nullptr ? hint : "", previous_bad != 0) : std::nullopt;
  if (!answer) {
    asker->gave_up = true;
    return gpg_error(GPG_ERR_CANCELED);
  }
  const std::string line = *answer + "\n";
  return gpgme_io_writen(fd, line.data(), line.size()) == 0 ? 0 : gpg_error(GPG_ERR_GENERAL);
}

// Options of the user's own stay. An empty file is what an interruption left.
Outcome<> write_once(const std::string& path, std::string_view text) {
  struct stat status{};
  if (::stat(path.c_str(), &status) == 0 && status.st_size > 0) {
    return Ok{};
  }
  return system::replace_file(path, std::string(text), 0600);
}

Outcome<> make_empty(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600));
  return fd.valid() ? Outcome<>(Ok{}) : Outcome<>(system_problem("writing " + path, errno));
}

// mkdir -p, every new directory 0700.
Outcome<> make_private_directory(const std::string& path) {
  for (std::size_t slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
    const std::string part = path.substr(0, slash);
    if (::mkdir(part.c_str(), 0700) != 0 && errno != EEXIST && errno != EROFS && errno != EACCES) {
      return system_problem("making the directory " + part, errno);
    }
    if (slash == std::string::npos) {
      break;
    }
  }
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0) {
    return system_problem("making the directory " + path, errno);
  }
  if (!S_ISDIR(status.st_mode)) {
    return Problem{path + " is not a directory"};
  }
  if ((status.st_mode & 0077) != 0 && ::chmod(path.c_str(), 0700) != 0) {
    return system_problem("making " + path + " private", errno);
  }
  return Ok{};
}

bool exists(const std::string& path) {
  return ::access(path.c_str(), F_OK) == 0;
}

bool is_hex_fingerprint(const std::string& text) {
  return text.size() == 40 && std::all_of(text.begin(), text.end(),
                                          [](unsigned char c) { return std::isxdigit(c) != 0; });
}

// Text that becomes a line of GnuPG's parameter file.
bool is_plain_line(const std::string& text) {
  return std::none_of(text.begin(), text.end(),
                      [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
}

}  // namespace

// A gpg-agent for this directory: GnuPG starts it when it needs one, this ends it. A lock keeps two
// commands from ending each other's.
class KeyDirectory::Agent {
 public:
  static Outcome<Agent> allow(const std::string& directory) {
    Agent out;
    out.directory_ = directory;
    out.lock_ = UniqueFd(::open((directory + "/postern.lock").c_str(),
                                O_RDWR | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600));
    if (!out.lock_.valid()) {
      return system_problem("opening " + directory + "/postern.lock", errno);
    }
    while (::flock(out.lock_.get(), LOCK_EX) != 0) {
      if (errno != EINTR) {
        return system_problem("locking " + directory, errno);
      }
    }
    return out;
  }

  Agent(Agent&&) noexcept = default;
  Agent& operator=(Agent&&) = delete;

  ~Agent() {
    if (lock_.valid()) {
      kill();
    }
  }

 private:
  Agent() = default;

  // Ends the agent, if one was started, and waits for its end: the next command would otherwise
  // reach an agent that is about to go.
  void kill() const {
    const std::string name = socket_name();
    sockaddr_un address{};
    if (name.empty() || name.size() >= sizeof address.sun_path) {
      return;
    }
    address.sun_family = AF_UNIX;
    std::copy(name.begin(), name.end(), &address.sun_path[0]);
    const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    // SAFETY: sockaddr_un is a sockaddr (bind(2)).
    if (!socket.valid() ||
        ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
      return;
    }
    // Not SO_PEERCRED: it names the process that called listen(2), which daemon(3) left behind.
    const std::string answer = talk(socket.get(), "GETINFO pid\n");
    const std::size_t at = answer.find("\nD ");
    pid_t agent = 0;
    if (at != std::string::npos) {
      std::from_chars(answer.data() + at + 3, answer.data() + answer.size(), agent);
    }
    const UniqueFd process(agent > 0 ? static_cast<int>(::syscall(SYS_pidfd_open, agent, 0)) : -1);
    constexpr std::string_view kEnd = "KILLAGENT\n";  // gpg-agent's protocol
    if (::send(socket.get(), kEnd.data(), kEnd.size(), MSG_NOSIGNAL) < 0 || !process.valid()) {
      return;
    }
    constexpr int kPatienceMilliseconds = 5000;
    pollfd ended{.fd = process.get(), .events = POLLIN, .revents = 0};
    while (::poll(&ended, 1, kPatienceMilliseconds) < 0 && errno == EINTR) {
    }
  }

  // Sends a command and collects the greeting and what is answered, up to the second "OK" line.
  static std::string talk(int socket, std::string_view command) {
    constexpr timeval kPatience{.tv_sec = 5, .tv_usec = 0};
    ::setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &kPatience, sizeof kPatience);
    std::string out;
    if (::send(socket, command.data(), command.size(), MSG_NOSIGNAL) < 0) {
      return out;
    }
    std::array<char, 256> piece;
    while (out.find("\nOK") == std::string::npos && out.size() < 4096) {
      const ssize_t got = ::recv(socket, piece.data(), piece.size(), 0);
      if (got <= 0) {
        break;
      }
      out.append(piece.data(), static_cast<std::size_t>(got));
    }
    return out;
  }

  // Asked of gpgconf: it depends on whether /run/user is there.
  [[nodiscard]] std::string socket_name() const {
    const auto finished = system::run_and_read(
        {.program = "gpgconf",
         .words = {"gpgconf", "--homedir", directory_, "--list-dirs", "agent-socket"}},
        PATH_MAX);
    return finished ? finished->output.substr(0, finished->output.find('\n')) : std::string{};
  }

  std::string directory_;
  UniqueFd lock_;
};

void KeyDirectory::Release::operator()(gpgme_context* context) const noexcept {
  gpgme_release(context);
}

Outcome<KeyDirectory::Context> KeyDirectory::context(bool armor) const {
  POSTERN_TRY_ASSIGN(const std::string program, signature::start_gpgme());
  gpgme_ctx_t raw = nullptr;
  if (const gpgme_error_t error = gpgme_new(&raw); error != 0) {
    return gpg_problem("opening keyring " + path_, error);
  }
  Context out(raw);
  if (const gpgme_error_t error =
          gpgme_ctx_set_engine_info(raw, GPGME_PROTOCOL_OpenPGP, program.c_str(), home_.c_str());
      error != 0) {
    return gpg_problem("opening keyring " + path_, error);
  }
  gpgme_set_offline(raw, 1);
  gpgme_set_armor(raw, armor ? 1 : 0);
  return out;
}

Outcome<KeyDirectory> KeyDirectory::open_for_reading(const std::string& path) {
  POSTERN_TRY(check_key_directory(path));
  KeyDirectory out;
  out.path_ = out.home_ = path;
  return out;
}

// The agent's sockets lie in the directory, and the name of a socket has at most 107 bytes
// (unix(7)): a longer directory gets a short second name.
Outcome<> KeyDirectory::shorten_home() {
  constexpr std::size_t kLongestHome = 80;
  home_ = path_;
  if (path_.size() <= kLongestHome) {
    return Ok{};
  }
  std::string absolute(PATH_MAX, '\0');
  if (::realpath(path_.c_str(), absolute.data()) == nullptr) {
    return system_problem("resolving " + path_, errno);
  }
  POSTERN_TRY_ASSIGN(TemporaryDirectory directory, TemporaryDirectory::create());
  home_ = directory.path() + "/k";
  if (::symlink(absolute.c_str(), home_.c_str()) != 0) {
    return system_problem("naming " + path_, errno);
  }
  temporary_.emplace(std::move(directory));
  return Ok{};
}

Outcome<KeyDirectory> KeyDirectory::open_temporary() {
  POSTERN_TRY_ASSIGN(TemporaryDirectory directory, TemporaryDirectory::create());
  KeyDirectory out;
  out.path_ = out.home_ = directory.path();
  out.temporary_.emplace(std::move(directory));
  POSTERN_TRY(write_once(out.path_ + "/gpg.conf", signature::keyring_options()));
  // With this file there GnuPG keeps the keys in it, as they are exported, and makes no keybox.
  POSTERN_TRY(write_once(out.path_ + "/pubring.gpg", ""));
  return out;
}

Outcome<KeyDirectory> KeyDirectory::open_local(const std::string& path) {
  POSTERN_TRY(check_key_directory(path));
  POSTERN_TRY(make_private_directory(path));
  KeyDirectory out;
  out.path_ = path;
  POSTERN_TRY(out.shorten_home());
  POSTERN_TRY(write_once(path + "/gpg.conf", kLocalOptions));
  POSTERN_TRY(write_once(path + "/gpg-agent.conf", kAgentOptions));
  POSTERN_TRY(out.restore_ring());
  // While this mark is there, the keys of Apptainer may not all have been taken over.
  const std::string mark = path + "/postern.adopting";
  const bool fresh = !exists(path + "/pubring.kbx") && !exists(path + "/pubring.gpg");
  if (fresh) {
    POSTERN_TRY(make_empty(mark));
    POSTERN_TRY(make_empty(path + "/pubring.gpg"));
  }
  if (fresh || exists(mark)) {
    POSTERN_TRY(out.adopt_apptainer_keys());
    ::unlink(mark.c_str());
  }
  return out;
}

// GnuPG replaces a ring in two steps: the old one becomes NAME~, then the new one NAME. Between
// them there is none.
Outcome<> KeyDirectory::restore_ring() const {
  const auto lost = [&](const std::string& name) {
    return !exists(path_ + "/pubring.kbx") && !exists(path_ + "/pubring.gpg") &&
           exists(path_ + name + "~");
  };
  for (const std::string name : {"/pubring.kbx", "/pubring.gpg"}) {
    if (!lost(name)) {
      continue;
    }
    POSTERN_TRY_ASSIGN(const Agent alone, Agent::allow(home_));  // or another command is at it
    const std::string ring = path_ + name;
    if (lost(name) && ::rename((ring + "~").c_str(), ring.c_str()) != 0) {
      return system_problem("restoring " + ring, errno);
    }
  }
  return Ok{};
}

Outcome<> KeyDirectory::adopt_apptainer_keys() {
  // Apptainer's own directory is the user's default one: into another directory, which the user
  // named, come only keys that lie there already.
  const bool is_default = path_ == default_keyring();
  for (const std::string& place : {path_, is_default ? apptainer_keyring() : std::string()}) {
    bool adopted = false;
    for (const char* name : {"/pgp-public", "/pgp-secret"}) {
      struct stat status{};
      const std::string file = place + name;
      if (place.empty() || ::stat(file.c_str(), &status) != 0 || status.st_size == 0) {
        continue;
      }
      POSTERN_TRY_ASSIGN(const std::string bytes, read_file(file));
      if (auto done = import(bytes)) {
        message::info("Keys of " + file + " are now also in " + path_);
        adopted = true;
      } else {
        message::warning(file + " cannot be imported: " + done.error().what);
      }
    }
    if (adopted) {
      break;
    }
  }
  return Ok{};
}

Outcome<std::vector<KeyInfo>> KeyDirectory::list(bool secret) const {
  std::vector<KeyInfo> out;
  if (!has_ring()) {
    return out;
  }
  std::optional<Agent> agent;
  if (secret) {
    POSTERN_TRY_ASSIGN(Agent allowed, Agent::allow(home_));
    agent.emplace(std::move(allowed));
  }
  POSTERN_TRY_ASSIGN(const Context context, this->context());
  gpgme_error_t error = gpgme_op_keylist_start(context.get(), nullptr, secret ? 1 : 0);
  while (error == 0) {
    gpgme_key_t raw = nullptr;
    error = gpgme_op_keylist_next(context.get(), &raw);
    const Key key(error == 0 ? raw : nullptr);
    if (key != nullptr && key->subkeys != nullptr) {
      out.push_back(info_of(*key));
    }
  }
  if (gpgme_err_code(error) != GPG_ERR_EOF) {
    return gpg_problem("listing the keys of " + path_, error);
  }
  return out;
}

Outcome<Imported> KeyDirectory::import(const std::string& bytes) {
  // Whether secret keys are among them is known only afterwards.
  POSTERN_TRY_ASSIGN(const Agent agent, Agent::allow(home_));
  POSTERN_TRY_ASSIGN(const Context context, this->context());
  const Data data(bytes);
  if (const gpgme_error_t error = gpgme_op_import(context.get(), data.get()); error != 0) {
    return gpg_problem("importing keys", error);
  }
  const auto* const result = gpgme_op_import_result(context.get());
  if (result == nullptr || result->considered == 0) {
    return Problem{"there is no OpenPGP key in it", "", kExitKeyOrTransfer};
  }
  Imported out;
  out.considered = result->considered;
  out.unchanged = result->unchanged;
  out.secret = result->secret_imported;
  out.secret_read = result->secret_read;
  for (const _gpgme_import_status* key = result->imports; key != nullptr; key = key->next) {
    if (key->result == 0 && key->status != 0 && key->fpr != nullptr &&
        std::find(out.fingerprints.begin(), out.fingerprints.end(), key->fpr) ==
            out.fingerprints.end()) {
      out.fingerprints.emplace_back(key->fpr);
    }
  }
  if (out.fingerprints.empty() && out.unchanged == 0 && result->secret_unchanged == 0) {
    return Problem{"no key could be imported",
                   "it may be of an unsupported kind, or have no user id"};
  }
  return out;
}

// Without one GnuPG would make an empty ring, in the site's directory too when root asks.
bool KeyDirectory::has_ring() const {
  return exists(path_ + "/pubring.gpg") || exists(path_ + "/pubring.kbx");
}

Outcome<std::string> KeyDirectory::export_public(const std::string& fingerprint, bool armor) const {
  if (!has_ring()) {
    return Problem{"there are no keys in " + path_};
  }
  POSTERN_TRY_ASSIGN(const Context context, this->context(armor));
  if (!fingerprint.empty()) {
    POSTERN_TRY(find_key(context.get(), fingerprint, false));
  }
  Data out;
  if (const gpgme_error_t error = gpgme_op_export(
          context.get(), fingerprint.empty() ? nullptr : fingerprint.c_str(), 0, out.get());
      error != 0) {
    return gpg_problem("exporting keys", error);
  }
  return out.take();
}

Outcome<std::string> KeyDirectory::export_secret(const std::string& fingerprint,
                                                 bool armor,
                                                 const PassphraseSource& ask) {
  POSTERN_TRY_ASSIGN(const Agent agent, Agent::allow(home_));
  POSTERN_TRY_ASSIGN(const Context context, this->context(armor));
  POSTERN_TRY(find_key(context.get(), fingerprint, true));
  Asker asker{ask};
  gpgme_set_pinentry_mode(context.get(), GPGME_PINENTRY_MODE_LOOPBACK);
  gpgme_set_passphrase_cb(context.get(), give_passphrase, &asker);
  Data out;
  if (const gpgme_error_t error =
          gpgme_op_export(context.get(), fingerprint.c_str(), GPGME_EXPORT_MODE_SECRET, out.get());
      error != 0) {
    return gpg_problem("exporting the secret key", error);
  }
  std::string bytes = out.take();
  if (bytes.empty()) {
    return Problem{"the secret key was not exported", "check its passphrase"};
  }
  return bytes;
}

Outcome<> KeyDirectory::remove(const std::string& fingerprint, bool public_part, bool secret_part) {
  if (!is_hex_fingerprint(fingerprint)) {
    return Problem{"'" + fingerprint + "' is not a fingerprint of 40 hexadecimal digits",
                   "'postern key list' shows the fingerprints"};
  }
  POSTERN_TRY_ASSIGN(const Agent agent, Agent::allow(home_));
  POSTERN_TRY_ASSIGN(const Context context, this->context());
  POSTERN_TRY_ASSIGN(const Key key, find_key(context.get(), fingerprint, false));
  const bool has_secret = find_key(context.get(), fingerprint, true).has_value();
  if (secret_part && !has_secret && !public_part) {
    return Problem{"no secret key " + fingerprint + " in the keyring"};
  }
  if (!secret_part && has_secret) {
    return Problem{
        "key " + fingerprint + " has a secret part, which is of no use without its public part",
        "remove both with --both"};
  }
  std::string keep;
  if (!public_part) {
    POSTERN_TRY_ASSIGN(keep, export_public(fingerprint, false));
  }
  const unsigned flags = GPGME_DELETE_FORCE | (has_secret ? GPGME_DELETE_ALLOW_SECRET : 0U);
  if (const gpgme_error_t error = gpgme_op_delete_ext(context.get(), key.get(), flags);
      error != 0) {
    return gpg_problem("removing key " + fingerprint, error);
  }
  // GnuPG calls it a success too if the disk refuses to change a file. Without a ring
  // (restore_ring() puts it back the next time) it must not be asked: it would make an empty one.
  if (!has_ring() || find_key(context.get(), fingerprint, false) ||
      find_key(context.get(), fingerprint, true)) {
    return Problem{"key " + fingerprint + " is still in the keyring after GnuPG removed it",
                   "see whether the disk of " + home_ + " is full or broken, and remove it again"};
  }
  if (!keep.empty()) {
    const Data data(keep);
    if (const gpgme_error_t error = gpgme_op_import(context.get(), data.get()); error != 0) {
      return gpg_problem("keeping the public part of " + fingerprint, error);
    }
  }
  return Ok{};
}

Outcome<std::string> KeyDirectory::generate(const NewKey& key) {
  for (const std::string* text : {&key.name, &key.comment, &key.email, &key.passphrase}) {
    if (!is_plain_line(*text)) {
      return Problem{"a name, comment, address or passphrase holds a control character"};
    }
  }
  if (key.bits < 2048 || key.bits > 16384) {
    return Problem{"a key of " + std::to_string(key.bits) + " bits", "use 2048 to 16384"};
  }
  POSTERN_TRY_ASSIGN(const Agent agent, Agent::allow(home_));
  POSTERN_TRY_ASSIGN(const Context context, this->context());
  const std::string bits = std::to_string(key.bits);
  std::string text = "<GnupgKeyParms format=\"internal\">\nKey-Type: RSA\nKey-Length: " + bits +
                     "\nKey-Usage: cert,sign\nSubkey-Type: RSA\nSubkey-Length: " + bits +
                     "\nSubkey-Usage: encrypt\n";
  const auto add = [&](const char* name, const std::string& value) {
    if (!value.empty()) {
      text += name + value + "\n";
    }
  };
  add("Name-Real: ", key.name);
  add("Name-Comment: ", key.comment);
  add("Name-Email: ", key.email);
  text += "Expire-Date: 0\n";
  text += key.passphrase.empty() ? "%no-protection\n" : "Passphrase: " + key.passphrase + "\n";
  text += "</GnupgKeyParms>\n";
  // The agent remembers nothing, so that GnuPG asks again for each signature of the new key.
  const PassphraseSource answer = [&](const std::string& /*hint*/, bool again) {
    return again ? std::nullopt : std::optional(key.passphrase);
  };
  Asker asker{answer};
  gpgme_set_pinentry_mode(context.get(), GPGME_PINENTRY_MODE_LOOPBACK);
  gpgme_set_passphrase_cb(context.get(), give_passphrase, &asker);
  if (const gpgme_error_t error = gpgme_op_genkey(context.get(), text.c_str(), nullptr, nullptr);
      error != 0) {
    return gpg_problem("generating a key", error);
  }
  const auto* const result = gpgme_op_genkey_result(context.get());
  if (result == nullptr || result->fpr == nullptr) {
    return Problem{"GnuPG generated no key"};
  }
  return std::string(result->fpr);
}

Outcome<> KeyDirectory::change_passphrase(const std::string& fingerprint,
                                          const std::string& old,
                                          const std::string& fresh) {
  POSTERN_TRY_ASSIGN(const Agent agent, Agent::allow(home_));
  POSTERN_TRY_ASSIGN(const Context context, this->context());
  POSTERN_TRY_ASSIGN(const Key key, find_key(context.get(), fingerprint, true));
  // GnuPG asks for the old passphrase, unless the key has none, and then for the new one; it does
  // not say which it asks for, and uses both for the subkeys as well.
  bool old_given = old.empty();
  const PassphraseSource ask = [&](const std::string& /*hint*/, bool /*again*/) {
    return std::optional(std::exchange(old_given, true) ? fresh : old);
  };
  Asker asker{ask};
  gpgme_set_pinentry_mode(context.get(), GPGME_PINENTRY_MODE_LOOPBACK);
  gpgme_set_passphrase_cb(context.get(), give_passphrase, &asker);
  if (const gpgme_error_t error = gpgme_op_passwd(context.get(), key.get(), 0); error != 0) {
    return gpg_problem("changing the passphrase of " + fingerprint, error);
  }
  return Ok{};
}

Outcome<std::string> KeyDirectory::clear_sign(const std::string& fingerprint,
                                              const std::string& text,
                                              const PassphraseSource& ask) {
  POSTERN_TRY_ASSIGN(const Agent agent, Agent::allow(home_));
  POSTERN_TRY_ASSIGN(const Context context, this->context());
  POSTERN_TRY_ASSIGN(const Key key, find_key(context.get(), fingerprint, true));
  Asker asker{ask};
  gpgme_set_pinentry_mode(context.get(), GPGME_PINENTRY_MODE_LOOPBACK);
  gpgme_set_passphrase_cb(context.get(), give_passphrase, &asker);
  gpgme_signers_clear(context.get());
  if (const gpgme_error_t error = gpgme_signers_add(context.get(), key.get()); error != 0) {
    return gpg_problem("signing with key " + fingerprint, error);
  }
  const Data in(text);
  Data out;
  if (const gpgme_error_t error =
          gpgme_op_sign(context.get(), in.get(), out.get(), GPGME_SIG_MODE_CLEAR);
      error != 0) {
    return gpg_problem("signing with key " + fingerprint, error);
  }
  return out.take();
}

}  // namespace postern::keys

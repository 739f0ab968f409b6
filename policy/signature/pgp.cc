#include "policy/signature/pgp.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <ctime>
#include <optional>

#include <sys/socket.h>
#include <sys/wait.h>

#include <fcntl.h>
#include <gpgme.h>
#include <unistd.h>

namespace postern::signature {
namespace {

Problem engine_problem(std::string doing, gpgme_error_t error) {
  std::array<char, 256> words{};
  gpgme_strerror_r(error, words.data(), words.size());
  return Problem{std::move(doing) + ": GnuPG: " + words.data()};
}

// A gpgme data object over bytes that stay where they are.
class Data {
 public:
  Data(const void* bytes, std::size_t size) {
    gpgme_data_new_from_mem(&data_, static_cast<const char*>(bytes), size, 0);
  }

  ~Data() {
    if (data_ != nullptr) {
      gpgme_data_release(data_);
    }
  }

  Data(const Data&) = delete;
  Data& operator=(const Data&) = delete;

  [[nodiscard]] gpgme_data_t get() const { return data_; }

 private:
  gpgme_data_t data_ = nullptr;
};

struct KeyRelease {
  void operator()(gpgme_key_t key) const { gpgme_key_unref(key); }
};

using Key = std::unique_ptr<_gpgme_key, KeyRelease>;

std::string lower_hex(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](char c) {
    return c >= 'A' && c <= 'F' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return text;
}

PgpCheck bad(std::string why) {
  return {PgpCheck::Result::kBad, std::move(why), {}};
}

struct StatusRow {
  gpgme_err_code_t code;
  std::string_view why;
};

constexpr std::array kBadStatus = std::to_array<StatusRow>({
    {GPG_ERR_BAD_SIGNATURE, "the signature does not match the text"},
    {GPG_ERR_SIG_EXPIRED, "the signature has expired"},
    {GPG_ERR_KEY_EXPIRED, "the key has expired"},
    {GPG_ERR_CERT_REVOKED, "the key has been revoked"},
});

// What the engine said about the one signature, before the key is looked at. None: good so far.
std::optional<PgpCheck> judge_status(const _gpgme_signature& signature,
                                     const SignaturePacket& packet) {
  const gpgme_err_code_t code = gpgme_err_code(signature.status);
  if (code == GPG_ERR_NO_PUBKEY) {
    return PgpCheck{PgpCheck::Result::kUnknownKey, "unknown signer", {}};
  }
  for (const StatusRow& row : kBadStatus) {
    if (row.code == code) {
      return bad(std::string(row.why));
    }
  }
  if (code != GPG_ERR_NO_ERROR) {
    return bad("GnuPG cannot check the signature");
  }
  constexpr unsigned kBadSummary = GPGME_SIGSUM_RED | GPGME_SIGSUM_KEY_REVOKED |
                                   GPGME_SIGSUM_KEY_EXPIRED | GPGME_SIGSUM_SIG_EXPIRED |
                                   GPGME_SIGSUM_KEY_MISSING | GPGME_SIGSUM_SYS_ERROR;
  if ((static_cast<unsigned>(signature.summary) & kBadSummary) != 0 ||
      signature.wrong_key_usage != 0) {
    return bad("GnuPG does not accept the signature");
  }
  if (static_cast<unsigned>(signature.hash_algo) != static_cast<unsigned>(packet.hash)) {
    return bad("GnuPG used another hash than the signature names");
  }
  if (signature.timestamp > static_cast<unsigned long>(std::time(nullptr))) {
    return bad("the signature is dated in the future");
  }
  return std::nullopt;
}

// The rights of the key that made the signature, whose own fingerprint is `fingerprint`.
PgpCheck judge_key(const _gpgme_key& key, const char* fingerprint) {
  PgpCheck out = bad("");
  if (key.subkeys == nullptr || key.subkeys->fpr == nullptr || fingerprint == nullptr) {
    out.why = "the key has no fingerprint";
    return out;
  }
  out.signer.fingerprint = lower_hex(key.subkeys->fpr);
  out.signer.name = key.uids != nullptr && key.uids->uid != nullptr && *key.uids->uid != '\0'
                        ? key.uids->uid
                        : "unknown";
  const auto dead = [](const _gpgme_subkey& subkey) {
    return subkey.revoked != 0 || subkey.expired != 0 || subkey.disabled != 0 ||
           subkey.invalid != 0;
  };
  const _gpgme_subkey* used = key.subkeys;
  while (used != nullptr && (used->fpr == nullptr || std::string_view(used->fpr) != fingerprint)) {
    used = used->next;
  }
  if (key.revoked != 0 || key.expired != 0 || key.disabled != 0 || key.invalid != 0 ||
      dead(*key.subkeys)) {
    out.why = "the signer's key is expired, revoked or invalid";
  } else if (key.uids != nullptr && key.uids->revoked != 0) {
    out.why = "the signer's user id has been revoked";
  } else if (used == nullptr || dead(*used)) {
    out.why = "the signer's subkey is expired, revoked or invalid";
  } else if (used->can_sign == 0) {
    out.why = "the signer's key may not sign";
  } else if (used->timestamp > std::time(nullptr) || key.subkeys->timestamp > std::time(nullptr)) {
    out.why = "the signer's key is dated in the future";
  } else if (out.signer.fingerprint.size() != 40) {
    out.why = "the signer's key is of an unsupported version";
  } else {
    out.result = PgpCheck::Result::kGood;
  }
  return out;
}

// The one key of this fingerprint. Not gpgme_get_key(): it makes a context of its own for the
// listing, which runs GnuPG once more, for its version.
Outcome<Key> look_up(gpgme_ctx_t context, const std::string& fingerprint) {
  gpgme_key_t found = nullptr;
  gpgme_key_t second = nullptr;
  gpgme_error_t error = gpgme_op_keylist_start(context, fingerprint.c_str(), /*secret_only=*/0);
  if (error == 0) {
    error = gpgme_op_keylist_next(context, &found);
  }
  Key key(found);
  if (error == 0) {
    error = gpgme_op_keylist_next(context, &second);
    const Key other(second);
    error = other != nullptr                       ? gpgme_error(GPG_ERR_AMBIGUOUS_NAME)
            : gpgme_err_code(error) == GPG_ERR_EOF ? 0
                                                   : error;
  }
  gpgme_op_keylist_end(context);
  if (error != 0) {
    return engine_problem("looking up the signer's key", error);
  }
  return key;
}

Outcome<PgpCheck> check_here(gpgme_ctx_t context,
                             const ClearSigned& message,
                             const SignaturePacket& packet) {
  const Data signature(message.packets.data(), message.packets.size());
  const Data text(message.signed_bytes.data(), message.signed_bytes.size());
  if (const gpgme_error_t error = gpgme_op_verify(context, signature.get(), text.get(), nullptr);
      error != 0) {
    // A signature that GnuPG cannot parse is the image's fault; the rest is ours.
    return gpgme_err_code(error) == GPG_ERR_NO_DATA || gpgme_err_code(error) == GPG_ERR_BAD_DATA
               ? Outcome<PgpCheck>(bad("GnuPG cannot read the signature"))
               : engine_problem("checking a signature", error);
  }
  const auto* const result = gpgme_op_verify_result(context);
  if (result == nullptr || result->signatures == nullptr || result->signatures->next != nullptr) {
    return bad("GnuPG does not find exactly one signature");
  }
  if (auto verdict = judge_status(*result->signatures, packet)) {
    return *std::move(verdict);
  }
  // A copy: the next operation frees the result.
  const std::string fingerprint = result->signatures->fpr != nullptr ? result->signatures->fpr : "";
  POSTERN_TRY_ASSIGN(const Key key, look_up(context, fingerprint));
  return judge_key(*key, fingerprint.c_str());
}

// ---- the other process. Texts travel as a 32-bit count and bytes, in this machine's order.
//
//   to it:    packets; signed bytes
//   from it:  one character 'G'ood, 'U'nknown, 'B'ad, 'E'rror; why or the error; cure; fingerprint;
//   name

constexpr std::size_t kMaxReplyText = std::size_t{64} << 10;

bool read_all(int fd, void* out, std::size_t bytes) {
  auto* at = static_cast<char*>(out);
  while (bytes > 0) {
    const ssize_t got = ::read(fd, at, bytes);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got <= 0) {
      return false;
    }
    at += got;
    bytes -= static_cast<std::size_t>(got);
  }
  return true;
}

bool write_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    // write(2), not send(2): one call fewer in the judge's filter. A peer that is gone is SIGPIPE
    // for write; the judge ignores it, and a process that does not is ended by it, which refuses.
    const ssize_t put = ::write(fd, bytes.data(), bytes.size());
    if (put < 0 && errno == EINTR) {
      continue;
    }
    if (put <= 0) {
      return false;
    }
    bytes.remove_prefix(static_cast<std::size_t>(put));
  }
  return true;
}

void put_text(std::string& out, std::string_view text) {
  const auto size = static_cast<std::uint32_t>(text.size());
  // SAFETY: the four bytes of a number.
  out.append(reinterpret_cast<const char*>(&size), sizeof size);
  out.append(text);
}

bool get_text(int fd, std::string& out, std::size_t most) {
  std::uint32_t size = 0;
  if (!read_all(fd, &size, sizeof size) || size > most) {
    return false;
  }
  out.resize(size);
  return read_all(fd, out.data(), size);
}

Outcome<PgpCheck> ask_child(int channel, const ClearSigned& message) {
  const Problem gone{"the process that checks OpenPGP signatures has ended"};
  std::string request;
  put_text(request,
           {reinterpret_cast<const char*>(message.packets.data()), message.packets.size()});
  put_text(request, message.signed_bytes);
  PgpCheck out;
  char kind = 0;
  std::string cure;
  if (!write_all(channel, request) || !read_all(channel, &kind, 1) ||
      !get_text(channel, out.why, kMaxReplyText) || !get_text(channel, cure, kMaxReplyText) ||
      !get_text(channel, out.signer.fingerprint, kMaxReplyText) ||
      !get_text(channel, out.signer.name, kMaxReplyText)) {
    return gone;
  }
  switch (kind) {
    case 'G':
      out.result = PgpCheck::Result::kGood;
      return out;
    case 'U':
      out.result = PgpCheck::Result::kUnknownKey;
      return out;
    case 'B':
      out.result = PgpCheck::Result::kBad;
      return out;
    case 'E':
      return Problem{out.why, cure};
    default:
      return gone;
  }
}

std::string reply_of(const Outcome<PgpCheck>& check) {
  std::string out;
  const auto add = [&](std::string_view text) { put_text(out, text.substr(0, kMaxReplyText)); };
  if (!check) {
    out += 'E';
    add(check.error().what);
    add(check.error().cure);
    add("");
    add("");
    return out;
  }
  out += check->result == PgpCheck::Result::kGood  ? 'G'
         : check->result == PgpCheck::Result::kBad ? 'B'
                                                   : 'U';
  add(check->why);
  add("");
  add(check->signer.fingerprint);
  add(check->signer.name);
  return out;
}

Outcome<gpgme_ctx_t> context_of(const std::string& program, const std::string& directory) {
  gpgme_ctx_t context = nullptr;
  gpgme_error_t error = gpgme_new(&context);
  if (error == 0) {
    error = gpgme_ctx_set_engine_info(context, GPGME_PROTOCOL_OpenPGP, program.c_str(),
                                      directory.c_str());
  }
  if (error != 0) {
    gpgme_release(context);
    return engine_problem("opening keyring " + directory, error);
  }
  return context;
}

// A ring in a process that opens no other. Naming program and directory to gpgme costs one more
// execution of the program, for its version; from the environment it takes them as they are.
Outcome<gpgme_ctx_t> only_context(const std::string& program, const std::string& directory) {
  const std::string path = program.substr(0, program.rfind('/'));
  if (::setenv("PATH", path.c_str(), 1) != 0 || ::setenv("GNUPGHOME", directory.c_str(), 1) != 0) {
    return system_problem("opening keyring " + directory, errno);
  }
  gpgme_ctx_t context = nullptr;
  if (const gpgme_error_t error = gpgme_new(&context); error != 0) {
    return engine_problem("opening keyring " + directory, error);
  }
  return context;
}

// The other process's loop, until its owner is gone.
void serve(const std::string& directory, int socket) {
  std::optional<Outcome<PgpKeyring>> ring;
  std::string packets;
  ClearSigned message;
  while (get_text(socket, packets, kMaxClearSignedBytes) &&
         get_text(socket, message.signed_bytes, kMaxClearSignedBytes)) {
    if (!ring) {
      ring.emplace(PgpKeyring::open_alone(directory, KeyOrigin::kGlobal));
    }
    message.packets.assign(packets.begin(), packets.end());
    const Outcome<PgpCheck> check =
        *ring ? (**ring).check(message) : Outcome<PgpCheck>(Problem((*ring).error()));
    if (!write_all(socket, reply_of(check))) {
      return;
    }
  }
}

// Forks twice, so that init reaps the process and its owner need not wait for it.
template <class Loop>
Outcome<UniqueFd> serve_in_child(const Loop& loop) {
  std::array<int, 2> pair{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()) != 0) {
    return system_problem("making a socket pair", errno);
  }
  UniqueFd mine(pair[0]);
  const UniqueFd theirs(pair[1]);
  const pid_t child = ::fork();
  if (child < 0) {
    return system_problem("starting a process to check signatures", errno);
  }
  if (child == 0) {
    if (::fork() != 0) {
      ::_exit(0);
    }
    // Its owner's descriptors (the answer's pipe among them) must not live on here.
    constexpr int kSocket = 3;
    const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    const int kept = ::fcntl(theirs.get(), F_DUPFD_CLOEXEC, 10);
    for (int fd = 0; fd < kSocket; ++fd) {
      if (null < 0 || ::dup2(null, fd) != fd) {
        ::_exit(1);
      }
    }
    if (::dup3(kept, kSocket, O_CLOEXEC) != kSocket || ::close_range(kSocket + 1, ~0U, 0) != 0) {
      ::_exit(1);
    }
    loop(kSocket);
    ::_exit(0);
  }
  while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  return mine;
}

bool has_ring(const std::string& directory) {
  return ::access((directory + "/pubring.gpg").c_str(), F_OK) == 0 ||
         ::access((directory + "/pubring.kbx").c_str(), F_OK) == 0;
}

Outcome<std::string> start_once() {
  constexpr std::array kPrograms = {"/usr/bin/gpg", "/usr/local/bin/gpg", "/usr/bin/gpg2"};
  const auto found = std::find_if(kPrograms.begin(), kPrograms.end(),
                                  [](const char* path) { return ::access(path, X_OK) == 0; });
  if (found == kPrograms.end()) {
    return Problem{"GnuPG is not installed, so OpenPGP signatures cannot be handled",
                   "install the package 'gpg' (Debian) or 'gnupg2' (Fedora, RHEL)"};
  }
  std::string program = *found;
  // Without these gpgme runs gpgconf several times and asks gpgsm for its version: 8 ms more.
  gpgme_set_global_flag("disable-gpgconf", "1");
  gpgme_set_global_flag("gpg-name", program.substr(program.rfind('/') + 1).c_str());
  if (gpgme_check_version("1.18.0") == nullptr) {
    return Problem{"the gpgme library is older than 1.18"};
  }
  return program;
}

}  // namespace

std::string_view keyring_options() {
  return "# Written by postern: read the keys, and nothing else: no locks, no trust database, no "
         "agent.\n"
         "lock-never\n"
         "trust-model always\n"
         "no-auto-check-trustdb\n"
         "no-permission-warning\n"
         "no-random-seed-file\n"
         "no-autostart\n"
         "no-auto-key-retrieve\n";
}

Outcome<std::string> start_gpgme() {
  static const Outcome<std::string> started = start_once();
  return started;
}

void PgpKeyring::Release::operator()(gpgme_context* context) const noexcept {
  gpgme_release(context);
}

Outcome<PgpKeyring> PgpKeyring::open(const std::string& directory, KeyOrigin origin) {
  return open(directory, origin, context_of);
}

Outcome<PgpKeyring> PgpKeyring::open_alone(const std::string& directory, KeyOrigin origin) {
  return open(directory, origin, only_context);
}

Outcome<PgpKeyring> PgpKeyring::open(const std::string& directory,
                                     KeyOrigin origin,
                                     MakeContext make) {
  PgpKeyring out;
  out.origin_ = origin;
  if (!has_ring(directory)) {
    return out;
  }
  POSTERN_TRY_ASSIGN(const std::string program, start_gpgme());
  POSTERN_TRY_ASSIGN(gpgme_context* const context, make(program, directory));
  out.context_.reset(context);
  gpgme_set_offline(context, 1);
  return out;
}

Outcome<PgpKeyring> PgpKeyring::open_in_child(const std::string& directory, KeyOrigin origin) {
  if (!has_ring(directory)) {
    return open(directory, origin);
  }
  POSTERN_TRY_ASSIGN(UniqueFd channel,
                     serve_in_child([directory](int socket) { serve(directory, socket); }));
  PgpKeyring out;
  out.origin_ = origin;
  out.channel_ = std::move(channel);
  return out;
}

Outcome<PgpCheck> PgpKeyring::check(const ClearSigned& message) const {
  const auto packet = parse_signature_packet(message);
  if (!packet) {
    return bad(packet.error().what);
  }
  if (!channel_.valid() && context_ == nullptr) {
    return PgpCheck{PgpCheck::Result::kUnknownKey, "unknown signer", {}};
  }
  auto out = channel_.valid() ? ask_child(channel_.get(), message)
                              : check_here(context_.get(), message, *packet);
  if (out) {
    out->signer.origin = origin_;
  }
  return out;
}

}  // namespace postern::signature

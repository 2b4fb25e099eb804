/*
 * A PKCS#11 module that forwards to another one and misbehaves on command.
 *
 * It reads two files that lie beside its own shared object:
 *
 *   NAME.so.target    one line: the path of the module to forward to
 *   NAME.so.control   what to do, one rule a line, read again whenever the file is replaced:
 *
 *     FUNCTION delay MILLISECONDS [count=N] [rate=P]    sleep before the call
 *     FUNCTION hang               [count=N] [rate=P]    do not return while the rule stands
 *     FUNCTION return CK_RV       [count=N] [rate=P]    do not call, return this instead (hexadecimal)
 *     FUNCTION fail CK_RV         [count=N] [rate=P]    call, and return this nevertheless (C_Encrypt, C_Decrypt; hexadecimal)
 *     FUNCTION spoil CK_RV        [count=N] [rate=P]    the same, and change the data and the AAD that it was given
 *     FUNCTION corrupt            [count=N] [rate=P]    change a bit of what it returns (C_Encrypt, C_Decrypt)
 *     FUNCTION segfault                                 crash the process and forget all rules
 *     iv zero                     demand a zeroed 12-byte IV in C_EncryptInit and write one of its own (CloudHSM)
 *     iv change                   change the IV that it was given, and use that
 *     iv append                   demand an empty IV, use a 16-byte one of its own and append it to the output (Luna)
 *     absent                      report no token
 *     sessions N [CK_RV]          open at most N sessions in a process (CKR_SESSION_COUNT, or another value, hexadecimal)
 *     shift N                     number the slots from N on; other numbers are invalid
 *     swap                        the first two slots have each other's number
 *     hide                        the token of the first slot is not present
 *     one                         sessions for one process only, which notes that beside the module; others get none
 *     label TEXT                  every token has this label
 *     flags FLAGS                 report these token flags too (hexadecimal)
 *     random constant             the generator gives the same bytes each time
 *     attribute fail TYPE         C_GetAttributeValue fails with CKR_FUNCTION_FAILED if asked for the type (hexadecimal)
 *     attribute stop TYPE         C_GetAttributeValue stops at the type and leaves the rest of the template as it is
 *     missing FUNCTION            NULL in the function list; must be there before the module is loaded
 *     drop                        close all sessions, once when the rule is read
 *     note FUNCTION               append a byte to NAME.so.control.calls at each call, in whichever process
 *
 * FUNCTION is a name such as C_Encrypt, or * for every function but C_Initialize and C_Finalize. count: the next N calls
 * of this process only. rate: a share of the calls, 0 to 1. The first rule that fits decides.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long CK_ULONG;
typedef unsigned char CK_BYTE;
typedef CK_ULONG CK_RV;

#define CKR_OK 0x0UL
#define CKR_GENERAL_ERROR 0x5UL
#define CKR_MECHANISM_PARAM_INVALID 0x71UL
#define CKR_TOKEN_NOT_PRESENT 0xE0UL
#define CKM_AES_GCM 0x1087UL
#define CKR_SLOT_ID_INVALID 0x3UL
#define CKR_FUNCTION_FAILED 0x6UL
#define CKR_ATTRIBUTE_TYPE_INVALID 0x12UL
#define CKR_SESSION_COUNT 0xB1UL
#define MAXIMUM_RULES 64

struct gcm_params {
    CK_BYTE *iv;
    CK_ULONG iv_length, iv_bits;
    CK_BYTE *aad;
    CK_ULONG aad_length, tag_bits;
};
struct mechanism {
    CK_ULONG mechanism;
    void *parameter;
    CK_ULONG length;
};
struct attribute {
    CK_ULONG type;
    void *value;
    CK_ULONG length;
};
#define CKF_TOKEN_INITIALIZED 0x400

struct token_info {
    CK_BYTE text[96];
    CK_ULONG flags;
};
struct function_list {
    CK_BYTE version[sizeof(void *)];
    void *function[68];
};

enum index {
    INITIALIZE, FINALIZE, GET_INFO, GET_FUNCTION_LIST, GET_SLOT_LIST, GET_SLOT_INFO, GET_TOKEN_INFO, GET_MECHANISM_LIST,
    GET_MECHANISM_INFO, OPEN_SESSION = 12, CLOSE_SESSION, CLOSE_ALL_SESSIONS, GET_SESSION_INFO, LOGIN = 18, LOGOUT,
    CREATE_OBJECT, DESTROY_OBJECT = 22, GET_ATTRIBUTE_VALUE = 24, FIND_OBJECTS_INIT = 26, FIND_OBJECTS, FIND_OBJECTS_FINAL, ENCRYPT_INIT, ENCRYPT,
    DECRYPT_INIT = 33, DECRYPT, GENERATE_KEY = 58, GENERATE_RANDOM = 64
};

enum action { DELAY, HANG, RETURN, FAIL, SPOIL, CORRUPT, SEGFAULT };
struct rule {
    char function[32];
    enum action action;
    CK_ULONG value;
    long left; /* -1: no end */
    double rate;
};

static struct function_list *real, ours;
static char control_path[4096], token_label[32], noted[32];
static struct timespec control_time;
static ino_t control_inode;
static struct rule rules[MAXIMUM_RULES];
static int rule_count, swapped, hidden, one_process, absent, drop_wanted, random_constant;
static CK_RV no_room;
static CK_ULONG slot_shift, extra_flags, failing_attribute, stopping_attribute;
static long maximum_sessions, open_sessions;
static enum { IV_CALLER, IV_CHANGE, IV_ZERO, IV_APPEND } iv_mode;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned int seed = 1;

static void forget_rules(void) {
    rule_count = swapped = hidden = one_process = absent = random_constant = 0;
    slot_shift = extra_flags = failing_attribute = stopping_attribute = 0;
    maximum_sessions = -1;
    no_room = CKR_SESSION_COUNT;
    token_label[0] = noted[0] = 0;
    iv_mode = IV_CALLER;
}

static void read_rules(FILE *file) {
    char line[512];
    forget_rules();
    while (fgets(line, sizeof line, file)) {
        char function[32], action[32], argument[64] = "";
        if (sscanf(line, "%31s", function) != 1 || function[0] == '#') continue;
        if (!strcmp(function, "absent")) { absent = 1; continue; }
        if (!strcmp(function, "swap")) { swapped = 1; continue; }
        if (!strcmp(function, "hide")) { hidden = 1; continue; }
        if (!strcmp(function, "one")) { one_process = 1; continue; }
        if (!strcmp(function, "drop")) { drop_wanted = 1; continue; }
        if (sscanf(line, "%31s %31s %63s", function, action, argument) < 2 || rule_count == MAXIMUM_RULES) continue;
        if (!strcmp(function, "sessions")) {
            maximum_sessions = strtol(action, NULL, 10);
            if (*argument) no_room = strtoul(argument, NULL, 16);
            continue;
        }
        if (!strcmp(function, "note")) { strcpy(noted, action); continue; }
        if (!strcmp(function, "label")) { strcpy(token_label, action); continue; }
        if (!strcmp(function, "shift")) { slot_shift = strtoul(action, NULL, 10); continue; }
        if (!strcmp(function, "flags")) { extra_flags = strtoul(action, NULL, 16); continue; }
        if (!strcmp(function, "random")) { random_constant = 1; continue; }
        if (!strcmp(function, "missing")) continue;
        if (!strcmp(function, "attribute")) {
            CK_ULONG *type = !strcmp(action, "fail") ? &failing_attribute : &stopping_attribute;
            *type = strtoul(argument, NULL, 16);
            continue;
        }
        if (!strcmp(function, "iv")) {
            iv_mode = !strcmp(action, "zero")     ? IV_ZERO
                      : !strcmp(action, "append") ? IV_APPEND
                      : !strcmp(action, "change") ? IV_CHANGE
                                                  : IV_CALLER;
            continue;
        }
        struct rule *rule = &rules[rule_count++];
        strcpy(rule->function, function);
        rule->action = !strcmp(action, "delay") ? DELAY : !strcmp(action, "hang") ? HANG
                     : !strcmp(action, "return")  ? RETURN
                     : !strcmp(action, "fail")    ? FAIL
                     : !strcmp(action, "spoil")   ? SPOIL
                     : !strcmp(action, "corrupt") ? CORRUPT
                                                  : SEGFAULT;
        rule->value = strtoul(argument, NULL, rule->action >= RETURN && rule->action <= SPOIL ? 16 : 10);
        char *count = strstr(line, "count="), *rate = strstr(line, "rate=");
        rule->left = count ? strtol(count + 6, NULL, 10) : -1;
        rule->rate = rate ? strtod(rate + 5, NULL) : 1.0;
    }
}

/* Call with the lock held. */
static void refresh(void) {
    struct stat now;
    if (stat(control_path, &now)) {
        forget_rules();
        control_inode = 0;
        return;
    }
    if (now.st_ino == control_inode && !memcmp(&now.st_mtim, &control_time, sizeof control_time)) return;
    control_inode = now.st_ino;
    control_time = now.st_mtim;
    FILE *file = fopen(control_path, "r");
    if (!file) return;
    read_rules(file);
    fclose(file);
}

/* The rule for a call, or NULL; counts it. Call with the lock held. */
static struct rule *match(const char *function) {
    for (int i = 0; i < rule_count; i++) {
        struct rule *rule = &rules[i];
        if (strcmp(rule->function, "*") && strcmp(rule->function, function)) continue;
        if (rule->left == 0) continue;
        if (rule->rate < 1.0 && rand_r(&seed) >= rule->rate * RAND_MAX) continue;
        if (rule->left > 0) rule->left--;
        return rule;
    }
    return NULL;
}

static void wait_ms(CK_ULONG milliseconds) {
    struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    nanosleep(&time, NULL);
}

static int still_hanging(const char *function) {
    int found = 0;
    pthread_mutex_lock(&lock);
    refresh();
    for (int i = 0; i < rule_count; i++)
        found |= rules[i].action == HANG && (!strcmp(rules[i].function, "*") || !strcmp(rules[i].function, function));
    pthread_mutex_unlock(&lock);
    return found;
}

/* Call with the lock held. */
static void note_call(const char *function) {
    char path[sizeof control_path + 8];
    if (strcmp(noted, function)) return;
    snprintf(path, sizeof path, "%s.calls", control_path);
    FILE *file = fopen(path, "a");
    if (file) {
        fputc('x', file);
        fclose(file);
    }
}

/* Call with the lock held. */
static void drop_sessions(void) {
    CK_ULONG slots[16], count = 16;
    drop_wanted = 0;
    if (!((CK_RV(*)(CK_BYTE, CK_ULONG *, CK_ULONG *))real->function[GET_SLOT_LIST])(1, slots, &count))
        for (CK_ULONG i = 0; i < count; i++) ((CK_RV(*)(CK_ULONG))real->function[CLOSE_ALL_SESSIONS])(slots[i]);
    __atomic_store_n(&open_sessions, 0, __ATOMIC_SEQ_CST);
}

static __thread int corrupt_output, spoil_input;
static __thread struct gcm_params *given_parameters;
static __thread CK_RV failure; /* after the call; CKR_OK: none */

/* CKR_OK: go on with the call. */
static CK_RV before(const char *function) {
    corrupt_output = spoil_input = 0;
    failure = CKR_OK;
    pthread_mutex_lock(&lock);
    refresh();
    if (drop_wanted) drop_sessions(); /* before another thread makes a call under the new rules */
    note_call(function);
    struct rule *found = match(function), rule = {0};
    if (found) rule = *found;
    pthread_mutex_unlock(&lock);
    if (!found) return CKR_OK;
    switch (rule.action) {
    case DELAY: wait_ms(rule.value); return CKR_OK;
    case HANG: while (still_hanging(function)) wait_ms(5); return CKR_OK;
    case RETURN: return rule.value;
    case SPOIL: spoil_input = 1; /* fall through */
    case FAIL: failure = rule.value; return CKR_OK;
    case CORRUPT: corrupt_output = 1; return CKR_OK;
    case SEGFAULT: /* one process only, of those that share the rules: the one that takes them away */
        if (unlink(control_path) == 0) *(volatile int *)0 = 0;
        return CKR_OK;
    }
    return CKR_OK;
}

static int is_absent(void) {
    pthread_mutex_lock(&lock);
    refresh();
    int result = absent;
    pthread_mutex_unlock(&lock);
    return result;
}

#define FORWARD(INDEX, NAME, TYPES, ...)                                            \
    do {                                                                            \
        CK_RV rv_ = before(NAME);                                                   \
        if (rv_ != CKR_OK) return rv_;                                              \
        return ((CK_RV(*) TYPES)real->function[INDEX])(__VA_ARGS__);                \
    } while (0)

static CK_RV initialize(void *arguments) { FORWARD(INITIALIZE, "C_Initialize", (void *), arguments); }
static CK_RV finalize(void *reserved) {
    __atomic_store_n(&open_sessions, 0, __ATOMIC_SEQ_CST);
    FORWARD(FINALIZE, "C_Finalize", (void *), reserved);
}
static CK_RV get_info(void *info) { FORWARD(GET_INFO, "C_GetInfo", (void *), info); }
/* The slot of the real module that has this number now. */
static CK_ULONG real_slot(CK_ULONG slot, int *is_first) {
    CK_ULONG slots[16], count = 16;
    slot -= slot_shift;
    CK_RV rv = ((CK_RV(*)(CK_BYTE, CK_ULONG *, CK_ULONG *))real->function[GET_SLOT_LIST])(1, slots, &count);
    if (rv != CKR_OK || count < 2) return slot;
    *is_first = slot == slots[0];
    return !swapped ? slot : slot == slots[0] ? slots[1] : slot == slots[1] ? slots[0] : slot;
}
static CK_RV get_slot_list(CK_BYTE present, CK_ULONG *slots, CK_ULONG *count) {
    if (present && is_absent()) { *count = 0; return CKR_OK; }
    CK_RV rv = before("C_GetSlotList");
    if (rv != CKR_OK) return rv;
    rv = ((CK_RV(*)(CK_BYTE, CK_ULONG *, CK_ULONG *))real->function[GET_SLOT_LIST])(present, slots, count);
    for (CK_ULONG i = 0; rv == CKR_OK && slots && i < *count; i++) slots[i] += slot_shift;
    return rv;
}
static CK_RV get_slot_info(CK_ULONG slot, void *info) {
    if (slot < slot_shift) return CKR_SLOT_ID_INVALID;
    FORWARD(GET_SLOT_INFO, "C_GetSlotInfo", (CK_ULONG, void *), real_slot(slot, &(int){0}), info);
}
static CK_RV get_token_info(CK_ULONG slot, void *info) {
    if (is_absent()) return CKR_TOKEN_NOT_PRESENT;
    if (slot < slot_shift) return CKR_SLOT_ID_INVALID;
    int is_first = 0;
    CK_RV rv = before("C_GetTokenInfo");
    if (rv != CKR_OK) return rv;
    rv = ((CK_RV(*)(CK_ULONG, void *))real->function[GET_TOKEN_INFO])(real_slot(slot, &is_first), info);
    if (is_first && hidden) return CKR_TOKEN_NOT_PRESENT;
    if (rv == CKR_OK && token_label[0] && (((struct token_info *)info)->flags & CKF_TOKEN_INITIALIZED)) {
        memset(info, ' ', 32);
        memcpy(info, token_label, strlen(token_label));
    }
    if (rv == CKR_OK) ((struct token_info *)info)->flags |= extra_flags;
    return rv;
}
/* Whether this process has the sessions: the first that asks, or the next one after that has ended. */
static int owns_sessions(void) {
    char path[sizeof control_path + 8];
    int owner = 0;
    snprintf(path, sizeof path, "%s.owner", control_path);
    FILE *file = fopen(path, "r");
    if (file) {
        if (fscanf(file, "%d", &owner) != 1) owner = 0;
        fclose(file);
    }
    if (owner == (int)getpid()) return 1;
    if (file && (!owner || !kill(owner, 0))) return 0;
    if (file) unlink(path);
    if (!(file = fopen(path, "wx"))) return 0;
    fprintf(file, "%d\n", (int)getpid());
    fclose(file);
    return 1;
}
static CK_RV open_session(CK_ULONG slot, CK_ULONG flags, void *application, void *notify, CK_ULONG *session) {
    if (is_absent()) return CKR_TOKEN_NOT_PRESENT;
    if (slot < slot_shift) return CKR_SLOT_ID_INVALID;
    CK_RV rv = before("C_OpenSession");
    if (rv != CKR_OK) return rv;
    if (one_process && !owns_sessions()) return CKR_SESSION_COUNT;
    if (maximum_sessions >= 0 && __atomic_load_n(&open_sessions, __ATOMIC_SEQ_CST) >= maximum_sessions) {
        return no_room;
    }
    rv = ((CK_RV(*)(CK_ULONG, CK_ULONG, void *, void *, CK_ULONG *))real->function[OPEN_SESSION])(
        real_slot(slot, &(int){0}), flags, application, notify, session);
    if (rv == CKR_OK) __atomic_fetch_add(&open_sessions, 1, __ATOMIC_SEQ_CST);
    return rv;
}
static CK_RV close_session(CK_ULONG session) {
    CK_RV rv = before("C_CloseSession");
    if (rv != CKR_OK) return rv;
    rv = ((CK_RV(*)(CK_ULONG))real->function[CLOSE_SESSION])(session);
    if (rv == CKR_OK) __atomic_fetch_sub(&open_sessions, 1, __ATOMIC_SEQ_CST);
    return rv;
}
static CK_RV get_session_info(CK_ULONG session, void *info) {
    FORWARD(GET_SESSION_INFO, "C_GetSessionInfo", (CK_ULONG, void *), session, info);
}
static CK_RV login(CK_ULONG session, CK_ULONG user, CK_BYTE *pin, CK_ULONG length) {
    FORWARD(LOGIN, "C_Login", (CK_ULONG, CK_ULONG, CK_BYTE *, CK_ULONG), session, user, pin, length);
}
static CK_RV get_attribute_value(CK_ULONG session, CK_ULONG object, void *template, CK_ULONG count) {
    struct attribute *attributes = template;
    for (CK_ULONG i = 0; i < count; i++) {
        if (failing_attribute && attributes[i].type == failing_attribute) return CKR_FUNCTION_FAILED;
        if (stopping_attribute && attributes[i].type == stopping_attribute) {
            if (i > 0) {
                ((CK_RV(*)(CK_ULONG, CK_ULONG, void *, CK_ULONG))real->function[GET_ATTRIBUTE_VALUE])(session, object,
                                                                                                   template, i);
            }
            attributes[i].length = (CK_ULONG)-1;
            return CKR_ATTRIBUTE_TYPE_INVALID;
        }
    }
    FORWARD(GET_ATTRIBUTE_VALUE, "C_GetAttributeValue", (CK_ULONG, CK_ULONG, void *, CK_ULONG), session, object,
            template, count);
}
static CK_RV find_objects_init(CK_ULONG session, void *template, CK_ULONG count) {
    FORWARD(FIND_OBJECTS_INIT, "C_FindObjectsInit", (CK_ULONG, void *, CK_ULONG), session, template, count);
}
static CK_RV find_objects(CK_ULONG session, CK_ULONG *objects, CK_ULONG maximum, CK_ULONG *count) {
    FORWARD(FIND_OBJECTS, "C_FindObjects", (CK_ULONG, CK_ULONG *, CK_ULONG, CK_ULONG *), session, objects, maximum,
            count);
}
static CK_RV find_objects_final(CK_ULONG session) {
    FORWARD(FIND_OBJECTS_FINAL, "C_FindObjectsFinal", (CK_ULONG), session);
}
static CK_RV create_object(CK_ULONG session, void *template, CK_ULONG count, CK_ULONG *object) {
    FORWARD(CREATE_OBJECT, "C_CreateObject", (CK_ULONG, void *, CK_ULONG, CK_ULONG *), session, template, count, object);
}
static CK_RV destroy_object(CK_ULONG session, CK_ULONG object) {
    FORWARD(DESTROY_OBJECT, "C_DestroyObject", (CK_ULONG, CK_ULONG), session, object);
}
static CK_RV generate_key(CK_ULONG session, void *mechanism, void *template, CK_ULONG count, CK_ULONG *key) {
    FORWARD(GENERATE_KEY, "C_GenerateKey", (CK_ULONG, void *, void *, CK_ULONG, CK_ULONG *), session, mechanism,
            template, count, key);
}
static CK_RV generate_random(CK_ULONG session, CK_BYTE *data, CK_ULONG length) {
    if (random_constant) {
        for (CK_ULONG i = 0; i < length; i++) data[i] = (CK_BYTE)(i * 7 + i / 256 + 1);
        return CKR_OK;
    }
    FORWARD(GENERATE_RANDOM, "C_GenerateRandom", (CK_ULONG, CK_BYTE *, CK_ULONG), session, data, length);
}

static CK_RV real_random(CK_ULONG session, CK_BYTE *data, CK_ULONG length) {
    return ((CK_RV(*)(CK_ULONG, CK_BYTE *, CK_ULONG))real->function[GENERATE_RANDOM])(session, data, length);
}
static CK_RV real_encrypt_init(CK_ULONG session, struct mechanism *mechanism, CK_ULONG key) {
    return ((CK_RV(*)(CK_ULONG, struct mechanism *, CK_ULONG))real->function[ENCRYPT_INIT])(session, mechanism, key);
}

static __thread CK_BYTE appended_iv[16];

static CK_RV encrypt_init(CK_ULONG session, struct mechanism *mechanism, CK_ULONG key) {
    CK_RV rv = before("C_EncryptInit");
    if (rv != CKR_OK) return rv;
    given_parameters = mechanism->parameter;
    if (mechanism->mechanism != CKM_AES_GCM || iv_mode == IV_CALLER) return real_encrypt_init(session, mechanism, key);
    struct gcm_params *given = mechanism->parameter;
    if (iv_mode == IV_CHANGE) {
        given->iv[0] ^= 1;
        return real_encrypt_init(session, mechanism, key);
    }
    if (iv_mode == IV_ZERO) {
        static const CK_BYTE zero[12];
        if (given->iv_length != 12 || memcmp(given->iv, zero, 12)) return CKR_MECHANISM_PARAM_INVALID;
        if ((rv = real_random(session, given->iv, 12)) != CKR_OK) return rv;
        return real_encrypt_init(session, mechanism, key);
    }
    if (given->iv_length != 0) return CKR_MECHANISM_PARAM_INVALID;
    if ((rv = real_random(session, appended_iv, sizeof appended_iv)) != CKR_OK) return rv;
    struct gcm_params own = *given;
    struct mechanism own_mechanism = {CKM_AES_GCM, &own, sizeof own};
    own.iv = appended_iv;
    own.iv_length = sizeof appended_iv;
    own.iv_bits = 8 * sizeof appended_iv;
    return real_encrypt_init(session, &own_mechanism, key);
}
static CK_RV encrypt(CK_ULONG session, CK_BYTE *data, CK_ULONG length, CK_BYTE *output, CK_ULONG *output_length) {
    CK_RV rv = before("C_Encrypt");
    if (rv != CKR_OK) return rv;
    CK_ULONG room = *output_length;
    rv = ((CK_RV(*)(CK_ULONG, CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG *))real->function[ENCRYPT])(session, data, length,
                                                                                                  output, output_length);
    if (spoil_input) {
        for (CK_ULONG i = 0; i < length; i++) data[i] ^= 1;
        for (CK_ULONG i = 0; i < given_parameters->aad_length; i++) given_parameters->aad[i] ^= 1;
    }
    if (failure != CKR_OK) return failure;
    if (rv == CKR_OK && corrupt_output && output && *output_length) output[0] ^= 1;
    if (rv != CKR_OK || iv_mode != IV_APPEND || !output) return rv;
    if (room < *output_length + sizeof appended_iv) return CKR_GENERAL_ERROR;
    memcpy(output + *output_length, appended_iv, sizeof appended_iv);
    *output_length += sizeof appended_iv;
    return rv;
}
static CK_RV decrypt_init(CK_ULONG session, struct mechanism *mechanism, CK_ULONG key) {
    given_parameters = mechanism->parameter;
    FORWARD(DECRYPT_INIT, "C_DecryptInit", (CK_ULONG, struct mechanism *, CK_ULONG), session, mechanism, key);
}
static CK_RV decrypt(CK_ULONG session, CK_BYTE *data, CK_ULONG length, CK_BYTE *output, CK_ULONG *output_length) {
    CK_RV rv = before("C_Decrypt");
    if (rv != CKR_OK) return rv;
    rv = ((CK_RV(*)(CK_ULONG, CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG *))real->function[DECRYPT])(session, data, length,
                                                                                                  output, output_length);
    if (spoil_input) {
        for (CK_ULONG i = 0; i < length; i++) data[i] ^= 1;
        for (CK_ULONG i = 0; i < given_parameters->aad_length; i++) given_parameters->aad[i] ^= 1;
    }
    if (failure != CKR_OK) return failure;
    if (rv == CKR_OK && corrupt_output && output && *output_length) output[0] ^= 1;
    return rv;
}

/* For tests in the same process: sessions that are open. */
long fault_open_sessions(void) { return __atomic_load_n(&open_sessions, __ATOMIC_SEQ_CST); }

static void remove_missing(void) {
    static const struct { const char *name; int index; } functions[] = {
        {"C_GenerateRandom", GENERATE_RANDOM}, {"C_FindObjects", FIND_OBJECTS}, {"C_OpenSession", OPEN_SESSION},
    };
    char line[512], name[64];
    FILE *file = fopen(control_path, "r");
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "missing %63s", name) != 1) continue;
        for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
            if (!strcmp(functions[i].name, name)) ours.function[functions[i].index] = NULL;
    }
    if (file) fclose(file);
}

CK_RV C_GetFunctionList(struct function_list **list) {
    Dl_info self;
    char path[4096 + 16], target[4096] = "";
    if (!dladdr((void *)C_GetFunctionList, &self)) return CKR_GENERAL_ERROR;
    snprintf(control_path, sizeof control_path, "%s.control", self.dli_fname);
    snprintf(path, sizeof path, "%s.target", self.dli_fname);
    pthread_mutex_lock(&lock);
    if (!real) {
        FILE *file = fopen(path, "r");
        if (file) {
            if (fgets(target, sizeof target, file)) target[strcspn(target, "\n")] = 0;
            fclose(file);
        }
        void *library = dlopen(target, RTLD_NOW | RTLD_LOCAL);
        CK_RV (*get)(struct function_list **) = library ? dlsym(library, "C_GetFunctionList") : NULL;
        if (!get || get(&real) != CKR_OK) {
            fprintf(stderr, "fault module: cannot load %s\n", target);
            real = NULL;
            pthread_mutex_unlock(&lock);
            return CKR_GENERAL_ERROR;
        }
        seed = (unsigned int)getpid();
        ours = *real;
        ours.function[INITIALIZE] = initialize;
        ours.function[FINALIZE] = finalize;
        ours.function[GET_FUNCTION_LIST] = C_GetFunctionList;
        ours.function[GET_INFO] = get_info;
        ours.function[GET_SLOT_LIST] = get_slot_list;
        ours.function[GET_SLOT_INFO] = get_slot_info;
        ours.function[GET_TOKEN_INFO] = get_token_info;
        ours.function[OPEN_SESSION] = open_session;
        ours.function[CLOSE_SESSION] = close_session;
        ours.function[GET_SESSION_INFO] = get_session_info;
        ours.function[LOGIN] = login;
        ours.function[GET_ATTRIBUTE_VALUE] = get_attribute_value;
        ours.function[FIND_OBJECTS_INIT] = find_objects_init;
        ours.function[FIND_OBJECTS] = find_objects;
        ours.function[FIND_OBJECTS_FINAL] = find_objects_final;
        ours.function[ENCRYPT_INIT] = encrypt_init;
        ours.function[ENCRYPT] = encrypt;
        ours.function[DECRYPT_INIT] = decrypt_init;
        ours.function[DECRYPT] = decrypt;
        ours.function[CREATE_OBJECT] = create_object;
        ours.function[DESTROY_OBJECT] = destroy_object;
        ours.function[GENERATE_KEY] = generate_key;
        ours.function[GENERATE_RANDOM] = generate_random;
        forget_rules();
        remove_missing();
    }
    pthread_mutex_unlock(&lock);
    *list = &ours;
    return CKR_OK;
}

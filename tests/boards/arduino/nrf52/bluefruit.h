/* Of Bluefruit: what firmware/boards/nrf52 calls. Callbacks come from a thread of their own. */
#ifndef BLUEFRUIT_H
#define BLUEFRUIT_H
#include <stddef.h>
#include <stdint.h>

enum { BANDWIDTH_AUTO = 0, BANDWIDTH_LOW, BANDWIDTH_NORMAL, BANDWIDTH_HIGH, BANDWIDTH_MAX };
enum { CHR_PROPS_WRITE_WO_RESP = 4, CHR_PROPS_WRITE = 8, CHR_PROPS_NOTIFY = 16 };
enum SecureMode_t { SECMODE_NO_ACCESS, SECMODE_OPEN };
enum { BLE_CONN_HANDLE_INVALID = 0xFFFF, BLE_GAP_ADV_FLAGS_LE_ONLY_GENERAL_DISC_MODE = 6 };

class BLEService
{
  public:
    explicit BLEService(const uint8_t *) {}
    uint32_t begin();
};

class BLECharacteristic
{
  public:
    typedef void (*write_cb_t)(uint16_t, BLECharacteristic *, uint8_t *, uint16_t);
    explicit BLECharacteristic(const uint8_t *uuid) : uuid_(uuid) {}
    void setProperties(uint8_t p) { properties_ = p; }
    void setPermission(SecureMode_t, SecureMode_t) {}
    void setMaxLen(uint16_t n) { max_ = n; }
    void setWriteCallback(write_cb_t f, bool deferred = true);
    uint32_t begin();
    bool notifyEnabled(uint16_t connection);
    bool notify(uint16_t connection, const void *p, uint16_t n);
    void written(const uint8_t *p, uint16_t n);

  private:
    const uint8_t *uuid_;
    uint8_t properties_ = 0;
    uint16_t max_ = 20;
    write_cb_t on_write_ = nullptr;
};

class BLEConnection
{
  public:
    uint16_t getMtu();
    bool requestPHY() { return true; }
    bool requestDataLengthUpdate() { return true; }
    bool requestMtuExchange(uint16_t) { return true; }
};

class AdafruitBluefruit
{
  public:
    struct periph {
        void setConnectCallback(void (*f)(uint16_t)) { on_connect = f; }
        void setDisconnectCallback(void (*f)(uint16_t, uint8_t)) { on_disconnect = f; }
        void (*on_connect)(uint16_t) = nullptr;
        void (*on_disconnect)(uint16_t, uint8_t) = nullptr;
    } Periph;
    struct advertising {
        bool addFlags(uint8_t) { return true; }
        bool addService(BLEService &) { return true; }
        bool addName() { return true; }
        void restartOnDisconnect(bool on) { restart = on; }
        bool start(uint16_t seconds);
        bool restart = true;
    } Advertising, ScanResponse;
    void configPrphBandwidth(uint8_t);
    bool begin(uint8_t periph, uint8_t central);
    void setName(const char *) {}
    BLEConnection *Connection(uint16_t);
};
extern AdafruitBluefruit Bluefruit;
#endif

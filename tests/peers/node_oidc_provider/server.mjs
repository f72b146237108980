// Does a client survive a strict authorization server? node-oidc-provider on loopback, for the tests.
//
//   node server.mjs [--port 0] [--access-token-seconds 300] [--redirect-uri URL]... [--stop-when-input-ends]
//
// PKCE is required, refresh tokens rotate and a reused one ends its family. Nobody has to click: the person is the
// `login_hint`, else the cookie that /_person sets, else alice; a person named `deny` refuses.
// One JSON line on standard output says that it is ready; GET /_ledger[?client_id=] says what has happened.
import { once } from 'node:events';
import { createServer } from 'node:http';
import { parseArgs } from 'node:util';
import { exportJWK, generateKeyPair } from 'jose';
import { Provider, errors, interactionPolicy } from 'oidc-provider';
import { initialClients } from './clients.mjs';
import { keepLedger } from './ledger.mjs';

const HOST = '127.0.0.1';
const SCOPES = ['read', 'write'];
const RESOURCES = { 'https://jwt.example.test/': 'jwt', 'https://opaque.example.test/': 'opaque' };

const { values: options } = parseArgs({
  options: {
    port: { type: 'string', default: '0' },
    'access-token-seconds': { type: 'string', default: '300' },
    'redirect-uri': { type: 'string', multiple: true, default: [] },
    'stop-when-input-ends': { type: 'boolean', default: false },
  },
});

const listener = createServer().listen(Number(options.port), HOST);
await once(listener, 'listening');
const { port } = listener.address();
const issuer = `http://${HOST}:${port}`;

const person = (ctx, params) => params.login_hint ?? ctx.cookies.get('person', { signed: false });
const lifetime = (client) => client?.metadata().access_token_seconds ?? Number(options['access-token-seconds']);

/** The default prompts, and a login whenever the person is another one than the session's. */
function prompts() {
  const { base, Check } = interactionPolicy;
  const policy = base();
  policy.get('login').checks.add(new Check('another_person', 'another person is sitting here', (ctx) => {
    const wanted = person(ctx, ctx.oidc.params);
    const other = wanted !== undefined && wanted !== ctx.oidc.session.accountId;
    return other ? Check.REQUEST_PROMPT : Check.NO_NEED_TO_PROMPT;
  }));
  return policy;
}

async function signingKey() {
  const { privateKey } = await generateKeyPair('RS256', { extractable: true });
  return { ...await exportJWK(privateKey), alg: 'RS256', use: 'sig', kid: 'peer' };
}

const provider = new Provider(issuer, {
  clients: initialClients(options['redirect-uri']),
  clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'private_key_jwt', 'none'],
  cookies: { keys: ['of a test'] },
  jwks: { keys: [await signingKey()] },
  scopes: ['openid', 'offline_access', ...SCOPES],
  claims: { openid: ['sub'], profile: ['name'], email: ['email'] },
  extraClientMetadata: {
    properties: ['access_token_seconds'],
    validator(ctx, key, value) {
      if (value !== undefined && !(Number.isInteger(value) && value > 0)) {
        throw new errors.InvalidClientMetadata(`${key} must be a positive integer`);
      }
    },
  },
  findAccount: (ctx, id) => ({
    accountId: id,
    claims: () => ({ sub: id, name: id, email: `${id}@example.test` }),
  }),
  pkce: { required: () => true },
  rotateRefreshToken: true,
  issueRefreshToken: (ctx, client) => client.grantTypeAllowed('refresh_token'),
  responseTypes: ['code'],
  ttl: {
    AccessToken: (ctx, token, client) => lifetime(client),
    AuthorizationCode: 60,
    ClientCredentials: (ctx, token, client) => lifetime(client),
    Grant: 86_400,
    IdToken: 300,
    Interaction: 600,
    RefreshToken: 86_400,
    Session: 3_600,
  },
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    introspection: { enabled: true },
    registration: { enabled: true },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => undefined,
      useGrantedResource: () => false,
      getResourceServerInfo(ctx, resource, client) {
        const format = RESOURCES[resource];
        if (!format) throw new errors.InvalidTarget();
        return {
          scope: SCOPES.join(' '),
          audience: resource,
          accessTokenTTL: lifetime(client),
          accessTokenFormat: format,
          jwt: { sign: { alg: 'RS256' } },
        };
      },
    },
  },
  interactions: { policy: prompts(), url: (ctx, interaction) => `/_interaction/${interaction.uid}` },
  async loadExistingGrant(ctx) { // consent is given by itself: every authorization is a grant of its own
    const { client, session } = ctx.oidc;
    const grant = new provider.Grant({ clientId: client.clientId, accountId: session.accountId });
    grant.addOIDCScope(['openid', 'offline_access', 'profile', 'email', ...SCOPES].join(' '));
    grant.addOIDCClaims(['sub', 'name', 'email']);
    for (const resource of Object.keys(RESOURCES)) grant.addResourceScope(resource, SCOPES.join(' '));
    await grant.save();
    return grant;
  },
});

const ledger = keepLedger(provider);

provider.use(async (ctx, next) => {
  if (ctx.path === '/_ledger') {
    ctx.body = ledger(ctx.query.client_id);
  } else if (ctx.path === '/_person') {
    ctx.cookies.set('person', ctx.query.name, { signed: false });
    ctx.body = `The person is now ${ctx.query.name}.`;
  } else if (ctx.path.startsWith('/_interaction/')) {
    const { params } = await provider.interactionDetails(ctx.req, ctx.res);
    const accountId = person(ctx, params) ?? 'alice';
    const result = accountId === 'deny'
      ? { error: 'access_denied', error_description: 'the person said no' }
      : { login: { accountId }, consent: {} };
    ctx.redirect(await provider.interactionResult(ctx.req, ctx.res, result, { mergeWithLastSubmission: true }));
  } else {
    await next();
  }
});

listener.on('request', provider.callback());
if (options['stop-when-input-ends']) process.stdin.resume().once('end', () => process.exit(0));

console.log(JSON.stringify({
  issuer,
  base_url: issuer,
  authorization_url: `${issuer}/auth`,
  token_url: `${issuer}/token`,
  revocation_url: `${issuer}/token/revocation`,
  introspection_url: `${issuer}/token/introspection`,
  registration_url: `${issuer}/reg`,
  me_url: `${issuer}/me`,
  ledger_url: `${issuer}/_ledger`,
  port,
  pid: process.pid,
}));
